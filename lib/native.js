'use strict';

// Loads the addon. binding.js (made by `napi build`) finds the file: the one built in this folder,
// or the platform package installed beside it. When it finds none, this says what to do about it.

// The platforms with a package on the registry: the folders of npm/.
const PLATFORMS = [
  'darwin-arm64',
  'darwin-x64',
  'linux-arm64-gnu',
  'linux-arm64-musl',
  'linux-x64-gnu',
  'linux-x64-musl',
  'win32-arm64-msvc',
  'win32-x64-msvc',
];

function thisPlatform() {
  const { platform, arch } = process;
  if (platform === 'win32') return `${platform}-${arch}-msvc`;
  if (platform !== 'linux') return `${platform}-${arch}`;
  // Without this the report resolves the name of every open socket.
  process.report.excludeNetwork = true;
  const libc = process.report.getReport().header.glibcVersionRuntime ? 'gnu' : 'musl';
  return `${platform}-${arch}-${libc}`;
}

// binding.js hides why an addon that is there does not load (a C library that is too old, say).
function loadFailure(platform) {
  for (const file of [`../wsmsgbroker.${platform}.node`, `wsmsgbroker-${platform}`]) {
    try {
      require.resolve(file);
    } catch {
      continue;
    }
    try {
      require(file);
    } catch (error) {
      return error;
    }
  }
}

function advice(platform, failure) {
  if (failure) return `Its addon is installed but does not load: ${failure.message}`;
  if (PLATFORMS.includes(platform)) {
    return (
      `Its package wsmsgbroker-${platform} is not installed: install again without --omit=optional ` +
      '(node_modules or a lock file made on another platform may lack it), ' +
      'or, in a clone of the repository, run `npm run build`.'
    );
  }
  return (
    'There is no package for this platform; ' +
    'in a clone of the repository `npm run build` builds the addon (Rust needed).'
  );
}

try {
  module.exports = require('../binding.js');
} catch (cause) {
  const platform = thisPlatform();
  const failure = loadFailure(platform);
  const error = new Error(
    `the addon of wsmsgbroker could not be loaded on ${platform} (Node ${process.version}). ` +
      `${advice(platform, failure)} Supported: ${PLATFORMS.join(', ')}.`,
    { cause: failure ?? cause },
  );
  error.code = 'ERR_WSMB_PLATFORM';
  throw error;
}
