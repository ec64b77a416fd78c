'use strict';

// The output of the command `wsbrokerserver`: it neither waits for a reader nor lets an id forge a line.

const fs = require('node:fs');
const net = require('node:net');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const { lastingPort } = require('../testkit/ports');
const { CLI, run, broker, registerAll } = require('./support/command');
const { WSMsgBroker } = require('./support/start');

/** Resolves when a server listens on this port. */
async function listening(port) {
  for (;;) {
    const socket = net.connect(port, '127.0.0.1');
    const [error] = await once(socket, 'connect').catch((error) => [error]);
    socket.destroy();
    if (error === undefined) {
      return;
    }
  }
}

/** Ids whose lines of output are twice as long as what is queued. */
const LONG_IDS = Array.from({ length: 150 }, (_, n) => `${n}-${'x'.repeat(8000)}`);

for (const [name, close] of [
  ['stdout', (child) => child.stdout.destroy()],
  ['stderr', (child) => child.stderr.destroy()],
  ['neither stdout nor stderr', (child) => child.stdout.destroy() && child.stderr.destroy()],
]) {
  test(`goes on without a reader of its output: ${name}`, async (t) => {
    const { child, port } = await broker(t);
    close(child);
    for (const id of ['a', 'b', 'c']) {
      await registerAll(t, port, [id]);
      child.kill('SIGHUP');
    }
    const exit = once(child, 'exit');
    child.kill('SIGTERM');
    t.deepEqual(await exit, [0, null]);
  });
}

test('help and version need no reader either', async (t) => {
  for (const flag of ['--help', '--version']) {
    const child = run(t, flag);
    child.stdout.destroy();
    t.deepEqual(await once(child, 'exit'), [0, null]);
  }
});

test('drops lines while their reader stands still, and prints how many', async (t) => {
  const { child, port, lines, next } = await broker(t);
  lines.pause();
  child.stdout.pause();
  await registerAll(t, port, LONG_IDS);
  lines.resume();
  const seen = [];
  do seen.push(await next());
  while (seen.at(-1).startsWith(' '));
  const [, dropped] = /^wsbrokerserver: (\d+) lines of output were dropped$/.exec(seen.at(-1));
  t.true(Number(dropped) > 10);
  // The number of lines is complete: nothing is dropped after it.
  await registerAll(t, port, ['later']);
  do seen.push(await next());
  while (seen.at(-1) !== ' + later');
  // All ids were registered, and all but the last one unregistered.
  const printed = seen.filter((line) => /^ [+-] \d+-x/.test(line)).length;
  t.is(printed + Number(dropped), 2 * LONG_IDS.length - 1);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  test(`${signal} ends it while the reader of its output stands still`, async (t) => {
    const { child, port, lines } = await broker(t);
    lines.pause();
    child.stdout.pause();
    await registerAll(t, port, LONG_IDS);
    const exit = once(child, 'exit');
    child.kill(signal);
    t.deepEqual(await exit, [0, null]);
  });
}

const onLinux = process.platform === 'linux' ? test : test.skip;

onLinux('a full disk does not end it', async (t) => {
  const full = fs.openSync('/dev/full', 'w');
  const port = await lastingPort(t);
  const child = spawn(process.execPath, [CLI, String(port), '--host', '127.0.0.1'], {
    stdio: ['ignore', full, full],
  });
  fs.closeSync(full);
  t.teardown(() => child.kill('SIGKILL'));
  await listening(port);
  await registerAll(t, port, ['a', 'b']);
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  t.deepEqual(await exit, [0, null]);
});

test('escapes ids that could forge a line, and prints ordinary ones unchanged', async (t) => {
  const { port, next } = await broker(t);
  for (const [id, shown] of [
    ['a b/c#1', 'a b/c#1'],
    ['say "hi" \\n', 'say "hi" \\n'],
    ['Zoë 東京 شیراز 👩‍🚀', 'Zoë 東京 شیراز 👩‍🚀'],
    ['a\n + b', '"a\\n + b"'],
    ['a\r', '"a\\r"'],
    ['\u001b[2K\u001b[31mred', '"\\u001b[2K\\u001b[31mred"'],
    ['\u009b2K', '"\\u009b2K"'],
    ['a\u007f', '"a\\u007f"'],
    ['a\u2028b\u2029', '"a\\u2028b\\u2029"'],
    ['\u202eb\u2066c\u200f\u061c', '"\\u202eb\\u2066c\\u200f\\u061c"'],
    ['\0', '"\\u0000"'],
    // An id that looks like an escaped one.
    ['"a\\n + b"', '"\\"a\\\\n + b\\""'],
  ]) {
    const client = new WSMsgBroker(id, '127.0.0.1', port);
    t.is(await next(), ` + ${shown}`);
    client.close();
    t.is(await next(), ` - ${shown}`);
  }
});
