'use strict';

// Completes package-lock.json. Tools have one optional package per platform, and npm omits from the lock file
// those that the current registry does not have (mirrors often lack foreign platforms). `npm ci` then rejects
// the file. Run this after a change of dependencies. --check only reports.

const fs = require('node:fs');
const path = require('node:path');

const file = path.join(__dirname, '..', 'package-lock.json');
const lock = JSON.parse(fs.readFileSync(file, 'utf8'));
const { packages } = lock;

// Resolves like Node.js: the nearest node_modules, from `from` upwards.
function find(name, from) {
  for (let folder = from; ; folder = folder.slice(0, folder.lastIndexOf('node_modules/'))) {
    const key = path.posix.join(folder, 'node_modules', name);
    if (packages[key] || !folder) return packages[key];
  }
}

function platformOf(name) {
  const [, os, cpu] =
    /-(android|darwin|freebsd|linux|openharmony|wasm32|win32)-(\w+?)(-|$)/.exec(name) ?? [];
  if (!os) throw new Error(`${name} is not in the lock file, and its name contains no platform`);
  if (os === 'wasm32') return { cpu: ['wasm32'] };
  const libc = os === 'linux' && { libc: [name.includes('musl') ? 'musl' : 'glibc'] };
  return { cpu: [cpu], ...libc, os: [os] };
}

const missing = [];
for (const [from, { optionalDependencies = {}, dev }] of Object.entries(packages)) {
  for (const [name, version] of Object.entries(optionalDependencies)) {
    if (find(name, from)) continue;
    missing.push(name);
    packages[`node_modules/${name}`] = {
      version,
      ...(dev && { dev }),
      optional: true,
      ...platformOf(name),
    };
  }
}

if (process.argv[2] === '--check') {
  if (missing.length) console.error(`not in package-lock.json: ${missing.join(', ')}`);
  process.exitCode = missing.length ? 1 : 0;
} else {
  const sorted = Object.entries(packages).sort(([a], [b]) => a.localeCompare(b, 'en'));
  lock.packages = Object.fromEntries(sorted);
  fs.writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
  console.log(`${missing.length} packages added to package-lock.json`);
}
