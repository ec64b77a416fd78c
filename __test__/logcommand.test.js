'use strict';

// The log of the command line: `--log` and `--log-level`.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const { EVENTS, LEVELS } = require('../lib/log/events');
const { lastingPort } = require('../testkit/ports');
const { CLI } = require('./support/command');
const { connect, register, refusedWith, runProgram, startCommand } = require('./support/logs');
const { WSMsgBroker, startServer } = require('./support/start');

const FORGED = 'a\nINFO forged\r\u001b[2K\u009b2K\u2028\u202e" reason=closed';

test('--log json writes one object a line to stderr, and nothing else', async (t) => {
  const { lines, stop } = await startCommand(t, '--log', 'json', '--log-level', 'debug');
  const { port } = JSON.parse(lines[0]);
  for (const id of ['a', FORGED]) {
    const client = await new WSMsgBroker(id, '127.0.0.1', port).connected();
    client.close();
    await once(client, 'close');
  }
  const { code, stdout } = await stop();
  t.is(code, 0);
  t.is(stdout, '');
  const objects = lines.map((line) => JSON.parse(line));
  for (const { time, level, event, message } of objects) {
    t.is(new Date(time).toISOString(), time);
    t.true(LEVELS.includes(level));
    t.true(event in EVENTS, event);
    t.is(typeof message, 'string');
  }
  const ids = objects.filter(({ event }) => event === 'registered').map(({ id }) => id);
  t.deepEqual(ids, ['a', FORGED]);
  t.notRegex(lines.join(''), /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u);
  t.deepEqual(
    ['listening', 'closing', 'closed'].filter(
      (each) => !objects.some(({ event }) => event === each),
    ),
    [],
  );
});

test('--log text writes a line that no id can forge', async (t) => {
  const { lines, stop } = await startCommand(t, '--log', 'text', '--log-level', 'debug');
  const TEXT =
    /^\d{4}-\d\d-\d\dT[\d:.]+Z (?:debug|info |warn |error) (\w+): ([^=]*?)((?: \w+=(?:[\w.:/@-]+|"(?:[^"\\]|\\.)*"))*)$/;
  const port = Number(/ port=(\d+) /.exec(lines[0])[1]);
  for (const id of ['a-1', FORGED, '東京', '']) {
    const client = new WSMsgBroker(id || 'x reason=y', '127.0.0.1', port);
    await client.connected();
    client.close();
    await once(client, 'close');
  }
  await stop();
  t.deepEqual(
    lines.filter((line) => !TEXT.test(line)),
    [],
  );
  t.notRegex(lines.join(''), /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u);
  const ids = lines.filter((line) => TEXT.exec(line)[1] === 'registered');
  t.deepEqual(
    ids.map((line) => / id=(\S+|".*") remoteAddress/.exec(line)[1]),
    [
      'a-1',
      '"a\\nINFO forged\\r\\u001b[2K\\u009b2K\\u2028\\u202e\\" reason=closed"',
      '"東京"',
      '"x reason=y"',
    ],
  );
});

for (const [flags, expected] of [
  [['--log', 'text'], ['info']],
  [
    ['--log-level', 'debug'],
    ['debug', 'info'],
  ],
]) {
  test(`the log is text at level info by default: ${flags.join(' ')}`, async (t) => {
    const { lines, stop } = await startCommand(t, ...flags);
    const port = Number(/Z info {2}listening: .* port=(\d+) /.exec(lines[0])[1]);
    await refusedWith(`ws://127.0.0.1:${port}/elsewhere`);
    const client = await new WSMsgBroker('a', '127.0.0.1', port).connected();
    client.close();
    await once(client, 'close');
    const { code } = await stop();
    t.is(code, 0);
    const levels = new Set(lines.map((line) => line.split(' ')[1]));
    t.deepEqual([...levels].sort(), expected);
    t.true(lines.some((line) => line.includes(' refused: ') && line.includes('status=404')));
  });
}

test('the log has the address of the admin endpoint', async (t) => {
  const port = await lastingPort(t);
  const { lines, stop } = await startCommand(t, '--log', 'json', '--admin', `${port}`);
  await stop();
  const found = lines.map((line) => JSON.parse(line));
  const line = found.find(({ event }) => event === 'admin_listening');
  t.like(line, { level: 'info', address: '127.0.0.1', port });
});

test('a command that cannot start writes a line of the log at any level, and its exit code', async (t) => {
  const { port } = (await startServer(t)).address();
  for (const level of ['debug', 'error', 'off']) {
    const flags = ['--log', 'json', '--log-level', level];
    const taken = await runProgram(t, [CLI, `${port}`, '--host', '127.0.0.1', ...flags]);
    t.is(taken.code, 1);
    t.regex(JSON.stringify(JSON.parse(taken.stderr)), /EADDRINUSE/);
    const wrong = await runProgram(t, [CLI, '0', '--max-dest', '0', ...flags]);
    t.is(wrong.code, 2);
    t.like(JSON.parse(wrong.stderr), { level: 'error', event: 'command' });
  }
  for (const flags of [
    ['--log', 'xml'],
    ['--log-level', 'all'],
  ]) {
    const { code, stderr } = await runProgram(t, [CLI, '0', ...flags]);
    t.is(code, 2);
    t.regex(stderr, new RegExp(`^wsbrokerserver: ${flags[0]} is '${flags[1]}', expected .*\n$`));
  }
});

test('--log-level off is silent, and other output does not mix with the log', async (t) => {
  const port = await lastingPort(t);
  const quiet = spawn(process.execPath, [CLI, `${port}`, '--log-level', 'off'], { stdio: 'pipe' });
  t.teardown(() => quiet.kill('SIGKILL'));
  let output = '';
  for (const stream of [quiet.stdout, quiet.stderr]) {
    stream.on('data', (data) => {
      output += data;
    });
  }
  const options = { reconnect: { maxDelay: 100 } };
  const client = await new WSMsgBroker('a', '127.0.0.1', port, '/', options).connected();
  client.close();
  await once(client, 'close');
  quiet.kill('SIGTERM');
  t.deepEqual(await once(quiet, 'close'), [0, null]);
  t.is(output, '');
  const unreachable = ['--nats', 'nats://127.0.0.1:1'];
  const { lines, reader, stop } = await startCommand(t, '--log', 'json', ...unreachable);
  while (!lines.some((line) => line.includes('"cluster"'))) await once(reader, 'line');
  await stop();
  const events = lines.map((line) => JSON.parse(line).event);
  t.is(events.filter((event) => event === 'command').length, 0);
});

test('the command goes on without a reader of its log, and counts lines that were not read', async (t) => {
  const closed = await startCommand(t, '--log', 'json', '--log-level', 'debug');
  const { port } = JSON.parse(closed.lines[0]);
  closed.child.stderr.destroy();
  for (const id of ['a', 'b']) {
    const client = await new WSMsgBroker(id, '127.0.0.1', port).connected();
    client.close();
  }
  closed.child.kill('SIGTERM');
  t.deepEqual(await once(closed.child, 'exit'), [0, null]);

  const flags = ['--log-level', 'debug', '--max-id-length', '65536'];
  const paused = await startCommand(t, '--log', 'json', ...flags);
  paused.reader.pause();
  paused.child.stderr.pause();
  const socket = await connect(t, `ws://127.0.0.1:${JSON.parse(paused.lines[0]).port}`);
  // More than the 1 MiB that is queued.
  for (let n = 0; n < 20; n += 1) await register(socket, `${n}-${'x'.repeat(60_000)}`);
  paused.reader.resume();
  while (!paused.lines.some((line) => line.includes('were dropped')))
    await once(paused.reader, 'line');
  const notice = paused.lines
    .map((line) => JSON.parse(line))
    .find(({ event }) => event === 'command');
  t.true(notice.count > 0);
  t.is((await paused.stop()).code, 0);
});

test('a reload by SIGHUP is a line of the log, and a failed one is an error', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const secret = path.join(folder, 'secret');
  fs.writeFileSync(secret, 'k'.repeat(32));
  const { child, lines, reader, stop } = await startCommand(
    t,
    '--log',
    'json',
    '--jwt-secret',
    secret,
  );
  const reload = async () => {
    const { length } = lines;
    child.kill('SIGHUP');
    while (lines.length === length) await once(reader, 'line');
    return JSON.parse(lines.at(-1));
  };
  t.like(await reload(), {
    level: 'info',
    event: 'command',
    message: 'SIGHUP has reloaded the keys of tokens',
  });
  fs.rmSync(secret);
  const failed = await reload();
  t.like(failed, { level: 'error', event: 'command' });
  t.regex(failed.message, /^--jwt-secret .*; SIGHUP has not changed the keys of tokens$/);
  t.is((await stop()).code, 0);
});
