'use strict';

// The loggers of a server: the option `logger`, also one that fails, and NODE_DEBUG.

const path = require('node:path');
const { spawn } = require('node:child_process');
const { on, once } = require('node:events');
const test = require('ava');
const { runProgram } = require('./support/logs');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

const PROGRAM = path.join(__dirname, 'logs', 'program.js');

test('a logger that throws or rejects does not disturb the server, and is reported once', async (t) => {
  const { code, stderr } = await runProgram(t, [PROGRAM, 'throw']);
  t.is(code, 0, stderr);
  t.is(stderr.match(/\[WSMB_LOGGER\]/g)?.length, 1, stderr);
});

for (const [name, text, logger] of [
  [
    'that throws',
    'thrown',
    {
      info: () => {
        throw new Error('thrown');
      },
    },
  ],
  [
    'that throws null',
    'null',
    {
      info: () => {
        throw null;
      },
    },
  ],
  ['that rejects', 'rejected', { info: () => Promise.reject(new Error('rejected')) }],
  [
    'whose level cannot be read',
    'unreadable',
    {
      info: () => {},
      get level() {
        throw new Error('unreadable');
      },
    },
  ],
]) {
  test(`a logger ${name} is a warning, and the server goes on`, async (t) => {
    const warnings = on(process, 'warning');
    const server = await startServer(t, { logger });
    await startClient(t, server, 'a');
    for await (const [{ code, message }] of warnings) {
      if (code === 'WSMB_LOGGER' && message.includes(`failed: ${text}`)) break;
      if (code === 'WSMB_LOGGER' && message.includes(`Error: ${text}\n`)) break;
    }
    await server.close();
    t.pass();
  });
}

test('the option logger must have a method', (t) => {
  for (const logger of [null, 1, 'pino', {}, { log() {} }, { info: 'text' }]) {
    const create = () => new WSMsgBroker.Server({ port: 0, logger });
    t.throws(create, { instanceOf: TypeError, code: 'ERR_WSMB_OPTION' });
  }
});

test('NODE_DEBUG=wsmsgbroker prints all levels to stderr, without a logger', async (t) => {
  const { code, stderr } = await runProgram(t, [PROGRAM], { NODE_DEBUG: 'wsmsgbroker' });
  t.is(code, 0, stderr);
  const lines = stderr.trim().split('\n');
  const events = lines.map((line) => /^WSMSGBROKER \d+: \w+ +(\w+): /.exec(line)?.[1]);
  for (const event of [
    'listening',
    'connection',
    'registered',
    'unknown_id',
    'disconnected',
    'closed',
  ])
    t.true(events.includes(event), stderr);
  t.false(events.includes(undefined), stderr);
  t.true(stderr.includes('id="a\\nforged"'), stderr);
  const silent = await runProgram(t, [PROGRAM], { NODE_DEBUG: 'other' });
  t.is(silent.stderr, '');
});

test('NODE_DEBUG does not end a process whose stderr is closed', async (t) => {
  const child = spawn(process.execPath, [PROGRAM], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, NODE_DEBUG: 'wsmsgbroker' },
  });
  t.teardown(() => child.kill('SIGKILL'));
  child.stderr.destroy();
  const messages = [];
  child.on('message', (message) => messages.push(message));
  const [exit] = await Promise.all([once(child, 'exit'), once(child, 'disconnect')]);
  t.deepEqual(exit, [0, null]);
  t.deepEqual(messages, ['done']);
});
