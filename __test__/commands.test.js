'use strict';

// The command wsmsgbroker: its subcommands, what they print, and their exit codes.

const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const readline = require('node:readline');
const { text } = require('node:stream/consumers');
const { setTimeout: sleep } = require('node:timers/promises');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const { startClient, startServer } = require('./support/start');
const { frame, upgrade } = require('./support/upgrade');

const CLI = path.join(__dirname, '..', 'bin', 'wsmsgbroker.js');

function start(t, args, { input, env } = {}) {
  const child = spawn(process.execPath, [CLI, ...args], { env: { ...process.env, ...env } });
  t.teardown(() => child.kill('SIGKILL'));
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  return child;
}

/** Exit code, stdout and stderr of a command that ends by itself. */
async function run(t, args, options) {
  const child = start(t, args, options);
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  return { code, stdout, stderr };
}

const urlOf = (server, scheme = 'ws') => `${scheme}://127.0.0.1:${server.address().port}`;

test('send delivers JSON from the command line or from stdin, to one id or several', async (t) => {
  const server = await startServer(t);
  const [a, b] = [await startClient(t, server, 'a'), await startClient(t, server, 'b')];
  const both = Promise.all([once(a, 'message'), once(b, 'message')]);
  const done = { code: 0, stdout: '', stderr: '' };
  t.deepEqual(await run(t, ['send', urlOf(server), 'a,b', '{"text":"hello"}']), done);
  for (const [message] of await both) t.deepEqual(message, { text: 'hello' });
  const next = once(a, 'message');
  t.deepEqual(await run(t, ['send', urlOf(server), 'a'], { input: '[1, "two"]\n' }), done);
  t.deepEqual((await next)[0], [1, 'two']);
});

test('send fails unless all receivers get the message, and names those that did not', async (t) => {
  const server = await startServer(t);
  const a = await startClient(t, server, 'a');
  const message = once(a, 'message');
  const { code, stderr } = await run(t, ['send', urlOf(server), 'a,nobody', '1']);
  t.is(code, 1);
  t.is(stderr, 'wsmsgbroker: not delivered to "nobody": UNKNOWN_ID\n');
  t.is((await message)[0], 1);
});

test('request prints the first answer, and fails without one', async (t) => {
  const server = await startServer(t);
  const a = await startClient(t, server, 'a');
  a.on('message', (message, response) => {
    if (message !== 'silence') response.send({ got: message });
  });
  const answered = await run(t, ['request', urlOf(server), 'a', '"x"']);
  t.deepEqual(answered, { code: 0, stdout: '{"got":"x"}\n', stderr: '' });
  const unknown = await run(t, ['request', urlOf(server), 'nobody', '1']);
  t.is(unknown.code, 1);
  t.regex(unknown.stderr, /nobody/);
  const late = await run(t, ['request', urlOf(server), 'a', '"silence"', '--timeout', '600']);
  t.is(late.code, 1);
  t.regex(late.stderr, /timeout/);
});

test('what peers send cannot control the terminal', async (t) => {
  const server = await startServer(t);
  const evil = '\u001b[2J\u009b2J\u202e\u2028';
  const a = await startClient(t, server, 'a');
  a.on('message', (message, response) => {
    if (message === 'refuse') response.reject(new Error(evil));
    else response.send(evil);
  });
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is looked for.
  const controls = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u202e]/;
  const answered = await run(t, ['request', urlOf(server), 'a', '1']);
  t.is(JSON.parse(answered.stdout), evil);
  t.notRegex(answered.stdout, controls);
  const refused = await run(t, ['request', urlOf(server), 'a', '"refuse"']);
  t.is(refused.code, 1);
  t.notRegex(refused.stderr, controls);
  const heard = run(t, ['listen', urlOf(server), 'l', '--count', '1']);
  await once(server, 'registered');
  while (!server.has('l')) await sleep(5);
  server.send(evil, 'l');
  const { stdout } = await heard;
  t.is(JSON.parse(stdout).message, evil);
  t.notRegex(stdout, controls);
});

test('listen prints messages as lines of JSON, answers requests, and ends with SIGINT', async (t) => {
  const server = await startServer(t);
  const child = start(t, ['listen', urlOf(server), 'l', '--answer', '{"ok":true}']);
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  await once(server, 'registered');
  const { message } = await server.request({ line: '\n\u2028"' }, 'l');
  t.deepEqual(message, { ok: true });
  const { value } = await lines.next();
  t.deepEqual(JSON.parse(value), { from: 'server', message: { line: '\n\u2028"' } });
  child.kill('SIGINT');
  t.deepEqual(await once(child, 'exit'), [0, null]);
});

test('listen fails if another client takes its id', async (t) => {
  const server = await startServer(t);
  const ended = run(t, ['listen', urlOf(server), 'taken']);
  await once(server, 'registered');
  await startClient(t, server, 'taken');
  const { code, stderr } = await ended;
  t.is(code, 1);
  t.regex(stderr, /another client has taken the id/);
});

test('listen ends after --count messages, and when its reader has gone', async (t) => {
  const server = await startServer(t);
  const counted = start(t, ['listen', urlOf(server), 'c', '--count', '2']);
  const output = text(counted.stdout);
  await once(server, 'registered');
  server.send(1, 'c');
  server.send(2, 'c');
  t.deepEqual(await once(counted, 'exit'), [0, null]);
  t.is((await output).split('\n').length, 3);
  const left = start(t, ['listen', urlOf(server), 'gone']);
  await once(server, 'registered');
  left.stdout.destroy();
  const exit = once(left, 'exit');
  const sends = setInterval(() => server.send('x', 'gone'), 20);
  t.deepEqual(await exit, [0, null]);
  clearInterval(sends);
});

test('clients have a token from a file or the environment, and trust an authority', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const trusted = authority();
  const [ca, token] = ['ca.pem', 'token'].map((name) => path.join(folder, name));
  fs.writeFileSync(ca, trusted.ca);
  fs.writeFileSync(token, 'sesame\nsecond line\n');
  const authenticate = (credentials) => credentials.token === 'sesame';
  const server = await startServer(t, { authenticate, tls: trusted.issue() });
  const target = ['send', urlOf(server, 'wss'), 'nobody', '1', '--ca', ca];
  for (const [args, env] of [
    [['--token-file', token], {}],
    [[], { WSMB_TOKEN: 'sesame' }],
  ]) {
    const { stderr } = await run(t, [...target, ...args], { env });
    t.is(stderr, 'wsmsgbroker: not delivered to "nobody": UNKNOWN_ID\n');
  }
  const refused = await run(t, target, { env: { WSMB_TOKEN: 'wrong' } });
  t.is(refused.code, 1);
  t.notRegex(refused.stderr, /wrong/);
  const untrusted = await run(t, target.slice(0, 4));
  t.is(untrusted.code, 1);
  t.regex(untrusted.stderr, /not trusted: set --ca to/);
  const invalid = await run(t, [...target.slice(0, 4), '--ca', token]);
  t.is(invalid.code, 1);
  t.regex(invalid.stderr, /^wsmsgbroker: --ca /);
});

test('bench prints the rates of messages and requests', async (t) => {
  const server = await startServer(t);
  const args = ['bench', urlOf(server), '--seconds', '1', '--pairs', '2', '--size', '50'];
  const { code, stdout, stderr } = await run(t, args);
  t.is(stderr, '');
  const [, messages] = /^messages: ([\d,]+)\/s, [\d.]+ MB\/s \(50 bytes, pairs: 2\)$/m.exec(stdout);
  const [, requests] =
    /^requests: ([\d,]+)\/s, p50 [\d.]+ ms, p99 [\d.]+ ms, max [\d.]+ ms \(at a time: 2\)$/m.exec(
      stdout,
    );
  const numbers = [messages, requests].map((text) => Number(text.replaceAll(',', '')));
  const { messagesOut, requests: ended } = server.stats();
  // A second of each, and a little more until all have arrived.
  t.true(numbers[0] > 0 && numbers[0] <= messagesOut);
  t.true(numbers[1] > 0 && numbers[1] <= ended.answered);
  t.is(code, 0);
});

test('top prints figures, slow receivers and closed connections, with the token of a file', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const token = path.join(folder, 'token');
  fs.writeFileSync(token, '0123456789abcdef\n');
  const admin = { port: 0, token: '0123456789abcdef' };
  const limits = { maxBackpressure: 1024, slowConsumerTimeout: 60_000 };
  const server = await startServer(t, { admin, ...limits });
  const slow = net.connect(server.address().port, '127.0.0.1').pause();
  t.teardown(() => slow.destroy());
  slow.write(upgrade('/'));
  // An id that would clear the screen.
  slow.write(frame({ action: 'register', id: 'slow\u001b[2J' }));
  await once(server, 'registered');
  const sender = await startClient(t, server, 'sender');
  for (let n = 0; n < 100; n += 1) sender.send('x'.repeat(100_000), 'slow\u001b[2J');
  while (server.stats().sendersHeld === 0) await sleep(5);
  const left = await startClient(t, server, 'left');
  const ended = once(server, 'disconnected');
  left.close();
  await ended;
  const reader = await startClient(t, server, 'reader', { protocol: 2 });
  for (const topic of ['room.tea', 'room.coffee', 'room.*']) await reader.subscribe(topic);
  await reader.subscribe('room.tea', { info: 1 });
  // The figures of a second are read once.
  await sleep(1000);
  const url = `http://127.0.0.1:${server.adminAddress().port}`;
  const { code, stdout, stderr } = await run(t, ['top', url, '--token-file', token]);
  t.is(stderr, '');
  t.is(code, 0);
  t.regex(stdout, /^wsmsgbroker \S+ {2}ready /);
  const row = /^"slow\\u001b\[2J" +127\.0\.0\.1:\d+ +[\d.]+ [KM]B +[\d.]+ m?s +1 +[\d.]+ m?s /m;
  t.regex(stdout, row);
  t.regex(stdout, /^topics {6}2 {3}patterns 1 {3}subscriptions 3 {3}members 1$/m);
  t.regex(stdout, /^left +127\.0\.0\.1:\d+ +client +1000 /m);
  t.false(stdout.includes('\u001b'));
  const refused = await run(t, ['top', url]);
  t.is(refused.code, 1);
  t.regex(refused.stderr, /Authorization/);
  const help = await run(t, ['top', '--help']);
  t.regex(help.stdout, /--token-file <file> +token of the admin endpoint/);
  const gone = await run(t, ['top', 'http://127.0.0.1:1']);
  t.is(gone.code, 1);
  t.regex(gone.stderr, /^wsmsgbroker: http:\/\/127\.0\.0\.1:1: /);
});

test('wrong usage exits with 2 and one line, a failure with 1', async (t) => {
  const usage = [
    ['sned'],
    ['send'],
    ['send', 'ws://127.0.0.1:1', 'a', '1', 'more'],
    ['send', 'ws://127.0.0.1:1', 'a', 'no JSON'],
    ['send', 'no URL', 'a', '1'],
    ['send', 'ws://127.0.0.1:1', 'a', '1', '--tiemout', '5'],
    ['send', 'ws://127.0.0.1:1', 'a', '1', '--timeout', 'soon'],
    ['send', 'ws://127.0.0.1:1', 'a', '1', '--token-file', '/does/not/exist'],
    ['listen', 'ws://127.0.0.1:1', 'a', '--count', '0'],
    ['listen', 'ws://127.0.0.1:1', 'a', '--answer', '{'],
    ['bench', 'ws://127.0.0.1:1', '--pairs', '0'],
    ['top', 'no URL'],
    ['completion', 'fish'],
  ];
  for (const args of usage) {
    const { code, stdout, stderr } = await run(t, args);
    t.deepEqual([code, stdout], [2, ''], args.join(' '));
    t.regex(stderr, /^wsmsgbroker: .*; see --help\n$/, args.join(' '));
  }
  const failed = await run(t, ['send', 'ws://127.0.0.1:1', 'a', '1']);
  t.deepEqual(failed, {
    code: 1,
    stdout: '',
    stderr: 'wsmsgbroker: connect ECONNREFUSED 127.0.0.1:1\n',
  });
  const help = await run(t, ['send', '--help']);
  t.is(help.code, 0);
  t.regex(help.stdout, /^Usage: wsmsgbroker send/);
});

test('serve starts a broker, as a port without a command does', async (t) => {
  for (const args of [['serve', '0'], ['0']]) {
    const child = start(t, [...args, '--host', '127.0.0.1']);
    const [line] = await once(readline.createInterface({ input: child.stdout }), 'line');
    t.regex(line, /^WSMsgBroker server listening on 127\.0\.0\.1:\d+\/$/);
    child.kill('SIGINT');
    t.deepEqual(await once(child, 'exit'), [0, null]);
  }
});

const onBash = spawnSync('bash', ['--version']).status === 0 ? test : test.skip;

onBash('completion completes commands and their options in bash', (t) => {
  const complete = (...words) => {
    const program = `eval "$(${process.execPath} ${CLI} completion bash)"
      COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}
      _wsmsgbroker; echo "\${COMPREPLY[@]}"`;
    return String(spawnSync('bash', ['-c', program]).stdout).trim();
  };
  t.is(complete('wsmsgbroker', 'se'), 'serve send');
  t.is(complete('wsmsgbroker', 'send', '--t'), '--token-file --timeout');
  t.is(complete('wsmsgbroker', 'serve', '--max-b'), '--max-backpressure');
});
