'use strict';

// The server of centrifuge/main.go, built on demand. It needs Go and the packages of Debian's Centrifuge library:
// golang-go, and golang-github-(centrifugal-centrifuge|centrifugal-protocol|fzambia-eagle|igm-sockjs-go|mna-redisc)-dev.

const { execFileSync, spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const path = require('node:path');

const SOURCE = path.join(__dirname, 'centrifuge');
const BINARY = path.join(__dirname, '..', '..', 'target', 'tmp', 'bench-centrifuge');
const PACKAGES = '/usr/share/gocode';

/** True if the server is built. */
function build() {
  if (!fs.existsSync(path.join(PACKAGES, 'src/github.com/centrifugal/centrifuge'))) return false;
  fs.mkdirSync(path.dirname(BINARY), { recursive: true });
  const env = { ...process.env, GO111MODULE: 'off', GOPATH: PACKAGES };
  execFileSync('go', ['build', '-o', BINARY, '.'], { cwd: SOURCE, env });
  return true;
}

/** Starts the server: its process, its port, and the epoch of its history. */
async function start() {
  const child = spawn(BINARY, { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = await once(child.stdout, 'data');
  const [port, epoch] = line.toString().trim().split(' ');
  return { child, port: Number(port), epoch };
}

/** Frames of the library's protocol that connect, and that subscribe to the channel with or without its history. */
const connect = '{"id":1,"params":{}}';
const subscribe = (epoch) => {
  const since = epoch ? `,"recover":true,"offset":0,"epoch":"${epoch}"` : '';
  return `{"id":2,"method":1,"params":{"channel":"kept.a"${since}}}`;
};

module.exports = { build, start, connect, subscribe };
