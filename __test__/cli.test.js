'use strict';

const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { createHmac } = require('node:crypto');
const { once } = require('node:events');
const readline = require('node:readline');
const test = require('ava');
const WebSocket = require('ws');
const { startNats } = require('../testkit/nats');
const { lastingPort } = require('../testkit/ports');
const { WSMsgBroker, startServer } = require('./support/start');

const CLI = path.join(__dirname, '..', 'bin', 'wsbrokerserver.js');

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

for (const signal of ['SIGINT', 'SIGTERM']) {
  test(`prints address, registrations and disconnections, and exits with 0 on ${signal}`, async (t) => {
    const child = run(t, '0', 'foo', '--host', '127.0.0.1', '--max-payload', '1000');
    const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async () => (await lines.next()).value;
    const [, port] = /^WSMsgBroker server listening on 127.0.0.1:(\d+)\/foo$/.exec(await next());
    const client = new WSMsgBroker('a', '127.0.0.1', port, 'foo');
    t.is(await next(), ' + a');
    client.close();
    t.is(await next(), ' - a');
    const other = new WSMsgBroker('b', '127.0.0.1', port, 'foo');
    t.is(await next(), ' + b');
    const ended = Promise.all([once(other, 'close'), once(child, 'exit')]);
    child.kill(signal);
    t.deepEqual(await ended, [
      [1001, 'server is closing'],
      [0, null],
    ]);
  });
}

/** A broker of the command line: its process, port and lines of output after the first. */
async function broker(t, ...flags) {
  const child = run(t, '0', '--host', '127.0.0.1', ...flags);
  const lines = readline.createInterface({ input: child.stdout });
  const iterator = lines[Symbol.asyncIterator]();
  const next = async () => (await iterator.next()).value;
  return { child, port: Number(/:(\d+)\/$/.exec(await next())[1]), lines, next };
}

/**
 * Sends a request from one client to the other. Returns the response, the pending answer and both clients.
 */
async function ask(t, port) {
  const [asker, responder] = ['asker', 'responder'].map((id) => {
    const client = new WSMsgBroker(id, '127.0.0.1', port);
    t.teardown(() => client.close());
    return client;
  });
  const ends = Promise.all([once(asker, 'close'), once(responder, 'close')]);
  await once(responder, 'registered');
  const asked = once(responder, 'message');
  const answer = new Promise((resolve) => {
    asker.send(1, 'responder', (_from, answer) => resolve(answer));
  });
  const [, response] = await asked;
  return { response, answer, ends };
}

/** Resolves when the port refuses connections, which is the first effect of a signal. */
async function refused(port) {
  for (;;) {
    const socket = net.connect(port, '127.0.0.1');
    const [error] = await once(socket, 'connect').catch((error) => [error]);
    socket.destroy();
    if (error?.code === 'ECONNREFUSED') {
      return;
    }
  }
}

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

test('a request that is pending at SIGTERM is answered before the process exits', async (t) => {
  const { child, port } = await broker(t, '--drain', '60000');
  const { response, answer, ends } = await ask(t, port);
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  await refused(port);
  response.send('late, but in time');
  t.is(await answer, 'late, but in time');
  t.deepEqual(await ends, [
    [1001, 'server is closing'],
    [1001, 'server is closing'],
  ]);
  t.deepEqual(await exit, [0, null]);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  test(`${signal} during the drain after SIGTERM exits with 0 at once`, async (t) => {
    t.timeout(90_000);
    const { child, port } = await broker(t, '--drain', '60000');
    const { ends } = await ask(t, port);
    const exit = once(child, 'exit');
    child.kill('SIGTERM');
    await refused(port);
    const second = Date.now();
    child.kill(signal);
    t.deepEqual(await ends, [
      [1001, 'server is closing'],
      [1001, 'server is closing'],
    ]);
    t.deepEqual(await exit, [0, null]);
    t.true(Date.now() - second < 30_000, 'the drain went on');
  });
}

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
]) {
  test(`a third signal, ${signal}, ends the process even with open connections`, async (t) => {
    const { child, port, next } = await broker(t, '--close-timeout', '60000', '--drain', '60000');
    // The socket does not answer a close frame, so a normal close would take a minute.
    const socket = net.connect(port, '127.0.0.1');
    t.teardown(() => socket.destroy());
    socket.on('error', () => {});
    socket.write(
      'GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
        'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
    );
    const register = Buffer.from('{"action":"register","id":"a"}');
    const header = Buffer.from([0x81, 0x80 | register.length, 0, 0, 0, 0]);
    socket.write(Buffer.concat([header, register]));
    t.is(await next(), ' + a');
    const exit = once(child, 'exit');
    child.kill(signal);
    await refused(port);
    // Two signals in quick succession may be merged; those after the third have no effect.
    const again = setInterval(() => child.kill(signal), 20);
    t.teardown(() => clearInterval(again));
    t.deepEqual(await exit, [code, null]);
  });
}

const IPV6 = Object.values(os.networkInterfaces())
  .flat()
  .some(({ address }) => address === '::1');
const ANY = ['0.0.0.0', '0', ...(IPV6 ? ['::', '::0', '0:0:0:0:0:0:0:0', '::ffff:0.0.0.0'] : [])];
const LOCAL = ['127.0.0.1', 'localhost', ...(IPV6 ? ['::1'] : [])];

for (const host of [...ANY, ...LOCAL]) {
  const warns = ANY.includes(host);
  test(`on ${host} it ${warns ? 'warns' : 'does not warn'} that any client may register`, async (t) => {
    const child = run(t, '0', '--host', host);
    let stderr = '';
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    const ended = once(child, 'close');
    await once(child.stdout, 'data');
    child.kill('SIGINT');
    t.deepEqual(await ended, [0, null]);
    t.is(stderr.includes('any client that can reach this machine may register'), warns, stderr);
    t.is(stderr.split('\n').length, warns ? 2 : 1, stderr);
  });
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

for (const signal of ['SIGHUP', 'SIGUSR2']) {
  test(`${signal} does not end it`, async (t) => {
    const { child, port, next } = await broker(t);
    child.kill(signal);
    await registerAll(t, port, ['a']);
    t.is(await next(), ' + a');
    child.kill(signal);
    const exit = once(child, 'exit');
    child.kill('SIGTERM');
    t.deepEqual(await exit, [0, null]);
  });
}

test('an unknown flag is reported with the one that is meant', async (t) => {
  for (const [flag, meant] of [
    ['--max-payloads', '--max-payload'],
    ['--maxPayload', '--max-payload'],
    ['--jwt-secrt', '--jwt-secret'],
    ['--drian', '--drain'],
  ]) {
    const { code, stderr } = await finish(t, '0', flag, '1');
    t.is(code, 2);
    t.true(stderr.includes(`did you mean ${meant}?`), stderr);
  }
  const { stderr } = await finish(t, '0', '--nothing', '1');
  t.false(stderr.includes('did you mean'), stderr);
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

test('prints help and version', async (t) => {
  const help = await finish(t, '--help');
  t.is(help.code, 0);
  t.regex(help.stdout, /Usage: wsbrokerserver <port> \[path\]/);
  for (const limit of ['--max-payload', '--slow-consumer-timeout', '--ack-timeout', '--threads']) {
    t.true(help.stdout.includes(limit), limit);
  }
  const version = await finish(t, '--version');
  t.deepEqual(version, { code: 0, stdout: `${require('../package.json').version}\n`, stderr: '' });
});

test('has a flag for every option of the server', async (t) => {
  const { serverOptions } = require('../lib/options');
  const { stdout } = await finish(t, '--help');
  // Arguments, and options that only a program can set.
  const others = ['port', 'path', 'id', 'authenticate', 'authenticateTimeout'];
  others.push('fd', 'server', 'noServer', 'allowUpgrade', 'logger');
  const without = ['--nats-user', '--nats-pass', '--nats-timeout', '--admin-fd'];
  const names = Object.entries(serverOptions).flatMap(([name, type]) => {
    const members = typeof type === 'object' && !Array.isArray(type) ? Object.keys(type) : [];
    return members.length > 0 ? members.map((member) => `${name}-${member}`) : [name];
  });
  for (const name of names.filter((name) => !others.includes(name))) {
    const own = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    const flag = { '--nats-servers': '--nats', '--admin-port': '--admin' }[own] ?? own;
    t.is(stdout.includes(`${flag} `), !without.includes(flag), flag);
  }
});

test('brokers with the same NATS form a cluster, and stderr shows its state', async (t) => {
  const [user, pass] = ['broker', 'sesame'];
  const { url } = await startNats(t, { user, pass });
  const address = url.replace('//', `//${user}:${pass}@`);
  const start = async (name) => {
    const flags = ['--nats-name', name, '--nats-namespace', 'cli', '--nats-required', 'yes'];
    // No server listens at the first address.
    const started = await broker(t, '--nats', 'nats://127.0.0.1:1', '--nats', address, ...flags);
    const lines = readline.createInterface({ input: started.child.stderr });
    return { ...started, errors: lines[Symbol.asyncIterator]() };
  };
  const brokers = await Promise.all(['one', 'two'].map(start));
  const [near, far] = brokers.map(({ port }, n) => {
    const client = new WSMsgBroker(`c${n}`, '127.0.0.1', port, '/', { protocol: 2 });
    t.teardown(() => client.close());
    return client;
  });
  await Promise.all([near.connected(), far.connected()]);
  far.on('message', (message, response) => response.send(message));
  t.deepEqual(await near.request('hi', 'c1'), { from: 'c1', message: 'hi' });
  for (const { errors } of brokers) {
    let line;
    // A line about the unreachable first address may come before.
    do line = (await errors.next()).value;
    while (line.startsWith('wsbrokerserver: cluster failed ('));
    t.is(line, 'wsbrokerserver: cluster connected');
  }
  const ended = once(brokers[0].child, 'exit');
  brokers[0].child.kill('SIGTERM');
  t.deepEqual(await ended, [0, null]);
});

test('reads a token from the first line of a file, and exits if the required NATS is unreachable', async (t) => {
  const { url } = await startNats(t, { token: 'sesame' });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-cli-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'token');
  const flags = ['--nats', url, '--nats-token', file, '--nats-required', 'yes'];
  fs.writeFileSync(file, 'sesame\r\nand more\n');
  const { child } = await broker(t, ...flags);
  child.kill('SIGINT');
  fs.writeFileSync(file, 'wrong\n');
  const { code, stdout, stderr } = await finish(t, '0', '--host', '127.0.0.1', ...flags);
  t.is(code, 1);
  t.is(stdout, '');
  t.regex(stderr, /^wsbrokerserver: cluster missing \(/m);
  t.regex(stderr, /^wsbrokerserver: NATS cannot be reached within 5000 ms: /m);
  t.false(stderr.includes('sesame') || stderr.includes('wrong'), stderr);
});

/** A token for an id, signed with this secret. */
function tokenFor(id, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const text = `${part({ alg: 'HS256' })}.${part({ sub: id, exp })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

test('SIGHUP reads the files of tokens again, and keeps those that are invalid', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-cli-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  const [secret, admin] = ['secret', 'admin'].map((name) => path.join(folder, name));
  const write = (text) => {
    fs.writeFileSync(secret, text);
    fs.writeFileSync(admin, text);
  };
  const [first, second] = ['first', 'second'].map((word) => word.padEnd(32, '-'));
  write(first);
  const adminPort = await lastingPort(t);
  const flags = ['--jwt-secret', secret, '--admin', `${adminPort}`, '--admin-token', admin];
  const { child, port, next } = await broker(t, ...flags);
  const stderr = readline.createInterface({ input: child.stderr })[Symbol.asyncIterator]();
  /** Whether both files have this text, in the opinion of the broker. */
  const accepts = async (text) => {
    const client = new WSMsgBroker('a', '127.0.0.1', port, '/', { token: tokenFor('a', text) });
    t.teardown(() => client.close());
    const isRegistered = await client.connected().then(
      () => true,
      () => false,
    );
    await client.close();
    const headers = { Authorization: `Bearer ${text}` };
    const { status } = await fetch(`http://127.0.0.1:${adminPort}/metrics`, { headers });
    return [isRegistered, status === 200];
  };
  /** Resolves when the broker accepts this text, or not any more. */
  const until = async (text, isAccepted) => {
    let found;
    do found = await accepts(text);
    while (found.includes(!isAccepted));
  };
  t.deepEqual(await accepts(first), [true, true]);
  t.is(await next(), ' + a');
  t.deepEqual(await accepts(second), [false, false]);
  write(second);
  child.kill('SIGHUP');
  await until(second, true);
  t.is(
    (await stderr.next()).value,
    'wsbrokerserver: SIGHUP has reloaded the keys of tokens, the admin token',
  );
  t.deepEqual(await accepts(first), [false, false]);
  write('short');
  child.kill('SIGHUP');
  const errors = [(await stderr.next()).value, (await stderr.next()).value];
  t.regex(
    errors[0],
    /^wsbrokerserver: option "jwt\.secret" .*; SIGHUP has not changed the keys of tokens$/,
  );
  t.regex(
    errors[1],
    /^wsbrokerserver: option "admin\.token" .*; SIGHUP has not changed the admin token$/,
  );
  fs.rmSync(secret);
  child.kill('SIGHUP');
  t.regex(
    (await stderr.next()).value,
    /^wsbrokerserver: --jwt-secret is no file that can be read \(ENOENT\)/,
  );
  t.regex((await stderr.next()).value, /^wsbrokerserver: option "admin\.token" /);
  t.deepEqual(await accepts(second), [true, true]);
  // One is valid again, the other one is not.
  fs.writeFileSync(admin, second);
  child.kill('SIGHUP');
  t.regex((await stderr.next()).value, /^wsbrokerserver: --jwt-secret is no file /);
  t.is((await stderr.next()).value, 'wsbrokerserver: SIGHUP has reloaded the admin token');
});

test('reports a usage error in one line', async (t) => {
  const server = await startServer(t);
  const taken = String(server.address().port);
  for (const [code, pattern, ...args] of [
    [2, /expected <port>/],
    [2, /expected <port>/, '1', '2', '3'],
    [2, /--nothing/, '0', '--nothing'],
    [2, /--max-dest is 'x'/, '0', '--max-dest', 'x'],
    [2, /maxDest/, '0', '--max-dest', '0'],
    [2, /slowConsumer/, '0', '--slow-consumer', 'x'],
    [2, /rateLimit.bytes/, '0', '--rate-limit-bytes', '0'],
    [2, /--drain is 'x'/, '0', '--drain', 'x'],
    [
      2,
      /--jwt-secret is no file that can be read \(ENOENT\)/,
      '0',
      '--jwt-secret',
      '/no/such/file',
    ],
    [2, /--jwt-require-exp is 'x'/, '0', '--jwt-require-exp', 'x'],
    [2, /jwt\.publicKey/, '0', '--jwt-public-key', __filename],
    [2, /nats\.servers/, '0', '--nats-namespace', 'blue'],
    [2, /nats\.namespace/, '0', '--nats', '127.0.0.1:1', '--nats-namespace', 'a.b'],
    [
      2,
      /nats\.creds.*ENOENT|nats\.creds.*No such file/i,
      '0',
      '--nats',
      'a',
      '--nats-creds',
      '/no/such/file',
    ],
    [
      2,
      /--nats-token is no file that can be read \(ENOENT\)/,
      '0',
      '--nats',
      'a',
      '--nats-token',
      '/no/such/file',
    ],
    [
      2,
      /"nats.token" and "nats.nkey"/,
      '0',
      '--nats',
      'a',
      '--nats-token',
      __filename,
      '--nats-nkey',
      __filename,
    ],
    [2, /--nats-tls is 'x'/, '0', '--nats', 'a', '--nats-tls', 'x'],
    [2, /70000/, '70000'],
    [1, /EADDRINUSE/, taken, '--host', '127.0.0.1'],
  ]) {
    const { code: found, stdout, stderr } = await finish(t, ...args);
    t.is(found, code, args.join(' '));
    t.regex(stderr, pattern);
    t.is(stderr.trim().split('\n').length, 1, stderr);
    t.is(stdout, '');
  }
});
