'use strict';

// The command `wsbrokerserver` on signals: drain, exit codes, and files that are read again.

const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { createHmac } = require('node:crypto');
const { once } = require('node:events');
const test = require('ava');
const { lastingPort } = require('../testkit/ports');
const { run, broker, registerAll } = require('./support/command');
const { WSMsgBroker } = require('./support/start');

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
  t.is(
    (await stderr.next()).value,
    `wsbrokerserver: admin endpoint listening on http://127.0.0.1:${adminPort}/`,
  );
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
