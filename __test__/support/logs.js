'use strict';

// Loggers that collect lines, and peers and programs that cause them.

const net = require('node:net');
const readline = require('node:readline');
const { spawn } = require('node:child_process');
const { on, once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const WebSocket = require('ws');
const { LEVELS } = require('../../lib/log/events');
const { CLI } = require('./command');
const { upgrade, frame } = require('./upgrade');

/** Parts of this text must not be in any log. Its prefix is in all secrets of clients. */
const SECRET = 'wE7secret';

/** A logger that collects its lines: `[level, members, message]`. */
function collector(levels = LEVELS, others = {}) {
  const lines = [];
  let wake = () => {};
  const methods = levels.map((level) => [
    level,
    (...line) => {
      lines.push([level, ...line]);
      wake();
    },
  ]);
  /** Resolves with the first line of this event. */
  const line = async (event, accepts = () => true) => {
    for (;;) {
      const found = lines.find(([, members]) => members.event === event && accepts(members));
      if (found !== undefined) return found;
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
  };
  return { logger: { ...Object.fromEntries(methods), ...others }, lines, line };
}

const urlOf = (server, rest = '/') => `ws://127.0.0.1:${server.address().port}${rest}`;

/** A WebSocket that speaks no protocol yet. */
async function connect(t, url, options) {
  const socket = new WebSocket(url, options);
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  return socket;
}

/** Sends actions, and resolves once the server has answered the last one, a registration. */
async function register(socket, id, ...before) {
  for (const action of before) socket.send(action);
  socket.send(JSON.stringify({ action: 'register', id }));
  for await (const [data] of on(socket, 'message')) {
    const { action, id: registered } = JSON.parse(data);
    if (action === 'registered' && registered === id) return;
  }
}

/** The status of a handshake that is refused. */
async function refusedWith(url, headers = {}) {
  const socket = new WebSocket(url, { headers });
  const [error] = await once(socket, 'error');
  return error.message;
}

/** Makes messages to a client that does not read be dropped. */
async function dropFor(t, server, sender) {
  const reader = net.connect(server.address().port, '127.0.0.1').pause();
  t.teardown(() => reader.destroy());
  reader.write(upgrade('/'));
  reader.write(frame({ action: 'register', id: 'slow' }));
  while (!server.has('slow')) await sleep(5);
  while (server.stats().dropped === 0) {
    sender.send('x'.repeat(100_000), 'slow');
    await sleep(1);
  }
  reader.destroy();
}

/** Runs a program. Resolves with its exit code and its stderr. */
async function runProgram(t, [file, ...args], env = {}) {
  const child = spawn(process.execPath, [file, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...env },
  });
  t.teardown(() => child.kill('SIGKILL'));
  let stderr = '';
  child.stderr.on('data', (data) => {
    stderr += data;
  });
  const [code] = await once(child, 'close');
  return { code, stderr };
}

/** A broker of the command line with these flags: its process, and the lines of its stderr. */
async function startCommand(t, ...flags) {
  const child = spawn(process.execPath, [CLI, '0', '--host', '127.0.0.1', ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  let stdout = '';
  child.stdout.on('data', (data) => {
    stdout += data;
  });
  const lines = [];
  const reader = readline.createInterface({ input: child.stderr });
  reader.on('line', (line) => lines.push(line));
  while (lines.length === 0) await once(reader, 'line');
  const stop = async () => {
    child.kill('SIGTERM');
    const [code] = await once(child, 'close');
    return { code, lines, stdout };
  };
  return { child, lines, reader, stop };
}

module.exports = {
  SECRET,
  collector,
  urlOf,
  connect,
  register,
  refusedWith,
  dropFor,
  runProgram,
  startCommand,
};
