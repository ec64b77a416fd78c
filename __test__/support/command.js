'use strict';

// The command `wsbrokerserver` as a process.

const path = require('node:path');
const readline = require('node:readline');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const WebSocket = require('ws');

const CLI = path.join(__dirname, '..', '..', 'bin', 'wsbrokerserver.js');

function run(t, ...args) {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

/** Exit code, stdout and stderr of a command that ends by itself. */
async function finish(t, ...args) {
  const child = run(t, ...args);
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) {
    child[name].on('data', (data) => {
      output[name] += data;
    });
  }
  const [code] = await once(child, 'close');
  return { code, ...output };
}

/** A broker of the command line: its process, port and lines of output after the first. */
async function broker(t, ...flags) {
  const child = run(t, '0', '--host', '127.0.0.1', ...flags);
  const lines = readline.createInterface({ input: child.stdout });
  const iterator = lines[Symbol.asyncIterator]();
  const next = async () => (await iterator.next()).value;
  return { child, port: Number(/:(\d+)\/$/.exec(await next())[1]), lines, next };
}

/** Registers these ids one after the other on one connection. Resolves when the last one is registered. */
async function registerAll(t, port, ids) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`);
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  const last = new Promise((resolve) => {
    socket.on('message', (data) => {
      const { action, id } = JSON.parse(data);
      if (action === 'registered' && id === ids.at(-1)) resolve();
    });
  });
  for (const id of ids) {
    socket.send(JSON.stringify({ action: 'register', id }));
  }
  await last;
}

module.exports = { CLI, run, finish, broker, registerAll };
