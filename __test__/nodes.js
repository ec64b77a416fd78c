'use strict';

// Installs each Node.js line we support into .nodes/, then loads the addon and holds a short
// conversation under each. The one binary must serve them all.

const fs = require('node:fs');
const path = require('node:path');
const { once } = require('node:events');
const { execFileSync, spawnSync } = require('node:child_process');

const LINES = [18, 20, 22, 24, 26];
const folder = path.join(__dirname, '.nodes');

// The packages that hold the binaries behind npm's package `node`; installed directly, since that
// one fetches them in an install script.
const platform = process.platform === 'win32' ? 'win' : process.platform;
const binary = `node-${platform}-${process.arch}`;

function install() {
  const wanted = LINES.map((line) => `node${line}@npm:${binary}@${line}`);
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n');
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--no-package-lock'];
  execFileSync(npm, ['install', ...options, ...wanted], {
    cwd: folder,
    stdio: 'inherit',
    shell: process.platform === 'win32',
  });
}

function check(line) {
  const bin = path.join(folder, 'node_modules', `node${line}`, 'bin');
  const node = path.join(bin, process.platform === 'win32' ? 'node.exe' : 'node');
  for (const args of [
    [__filename, 'conversation'],
    [path.join(__dirname, 'lifecycle', 'programs.js'), 'end workers', '3'],
  ]) {
    const { status, signal, error } = spawnSync(node, args, { stdio: 'inherit', timeout: 60_000 });
    if (status !== 0) {
      console.error(`not ok: Node ${line} (${error?.message ?? signal ?? `exit code ${status}`})`);
      return false;
    }
  }
  return true;
}

// Runs under the Node.js that is tried, and ends by itself when all is closed.
async function conversation() {
  const WSMsgBroker = require('..');
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const { port } = server.address();
  const [asker, echo] = ['asker', 'echo'].map((id) => new WSMsgBroker(id, '127.0.0.1', port));
  await Promise.all([once(asker, 'registered'), once(echo, 'registered')]);

  const message = { text: 'grüße 🦀', list: [1, null, true], long: 'x'.repeat(100_000) };
  echo.on('message', (received, response) => response.send(received));
  const answer = await new Promise((resolve) => {
    asker.send(message, 'echo', (_from, received) => resolve(received));
  });
  require('node:assert').deepStrictEqual(answer, message);

  const closed = once(echo, 'close');
  await asker.close();
  await server.close();
  await closed;
  console.log(`ok: Node ${process.version}`);
}

if (process.argv[2] === 'conversation') {
  conversation();
} else {
  install();
  const failed = LINES.filter((line) => !check(line)).length;
  console.log(`${LINES.length - failed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}
