'use strict';

// The server's directory of ids, `ready`, and the id of its own client.

const { execFile } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const test = require('ava');
const { WebSocket } = require('./original');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

const root = path.join(__dirname, '..');
const HERE = { port: 0, host: '127.0.0.1' };

/** A raw WebSocket that has sent its registration. */
async function peer(t, server, id) {
  const socket = new WebSocket(`ws://127.0.0.1:${server.address().port}/`);
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  socket.send(JSON.stringify({ action: 'register', id }));
  return socket;
}

test('ids() and has() return the registered ids', async (t) => {
  const server = await startServer(t);
  t.deepEqual(server.ids(), []);
  t.false(server.has('a'));
  const names = ['a', 'ü€😀', '', '__proto__'];
  for (const name of names.filter((each) => each !== '')) {
    await startClient(t, server, name);
  }
  t.deepEqual(server.ids().sort(), names.filter((each) => each !== '').sort());
  t.deepEqual(
    names.map((name) => server.has(name)),
    [true, true, false, true],
  );
});

test('disconnect() disconnects the owner of an id, which is free at once', async (t) => {
  const server = await startServer(t);
  const gone = [];
  server.on('unregistered', (id) => gone.push(id));
  const socket = await peer(t, server, 'a');
  await once(socket, 'message');
  const closed = once(socket, 'close');
  t.true(server.disconnect('a', 4000, 'enough'));
  t.false(server.has('a'));
  t.deepEqual(server.ids(), []);
  t.false(server.disconnect('a'));
  const [code, reason] = await closed;
  t.deepEqual([code, String(reason)], [4000, 'enough']);
  const client = await startClient(t, server, 'a');
  t.deepEqual(gone, ['a']);
  const ended = once(client, 'close');
  t.true(server.disconnect('a'));
  t.deepEqual(await ended, [1000]);
});

test('disconnect() by principal disconnects all its connections, also those without an id', async (t) => {
  const authenticate = ({ id }) => ({ principal: id.split('-')[0] });
  const server = await startServer(t, { authenticate });
  const ids = ['a-1', 'a-1', 'a-2', 'b-1'];
  const closed = [];
  for (const id of ids) {
    const socket = await peer(t, server, id);
    await once(socket, 'message');
    closed.push(once(socket, 'close'));
  }
  t.true(server.disconnect('a-1', { code: 4000, reason: 'enough', principal: true }));
  t.deepEqual(server.ids(), ['b-1']);
  for (const event of closed.slice(0, 3)) {
    const [code, reason] = await event;
    t.deepEqual([code, String(reason)], [4000, 'enough']);
  }
  t.false(server.disconnect('a-1', { principal: true }));
  t.true(server.disconnect('b-1', {}));
  t.is((await closed[3])[0], 1000);
});

test('disconnect() sends queued messages before the close frame', async (t) => {
  const server = await startServer(t);
  const client = await startClient(t, server, 'a');
  const sender = await startClient(t, server, 'b');
  const texts = [];
  client.on('message', (text) => texts.push(text));
  const long = 'x'.repeat(4_000_000);
  sender.send(long, 'a');
  sender.send('last', ['a', 'b']);
  await once(sender, 'message');
  const ended = once(client, 'close');
  server.disconnect('a', 3000);
  t.deepEqual(await ended, [3000]);
  t.deepEqual(texts, [long, 'last']);
});

test('disconnect() rejects codes and reasons that a close frame cannot carry, and invalid ids', async (t) => {
  const server = await startServer(t);
  await startClient(t, server, 'a');
  const types = { code: 'ERR_WSMB_OPTION', instanceOf: TypeError };
  const ranges = { code: 'ERR_WSMB_OPTION', instanceOf: RangeError };
  for (const id of [undefined, null, 5, ['a'], {}]) {
    t.throws(() => server.has(id), types);
    t.throws(() => server.disconnect(id), types);
  }
  for (const code of [null, '1000', -1, Number.NaN, 1000n]) {
    t.throws(() => server.disconnect('a', code), types, String(code));
  }
  const outside = [0, 999, 1001, 1006, 2999, 5000, 65_536 + 1000, 2 ** 32 + 1000, 4000.5, 1 / 0];
  for (const code of outside) {
    t.throws(() => server.disconnect('a', code), ranges, String(code));
  }
  for (const reason of [null, 5, Buffer.from('x')]) {
    t.throws(() => server.disconnect('a', 1000, reason), types, String(reason));
  }
  t.throws(() => server.disconnect('a', 1000, 'é'.repeat(62)), ranges);
  for (const options of [
    { code: '1000' },
    { code: 1.5 },
    { reason: 5 },
    { principal: 1 },
    { other: true },
  ]) {
    t.throws(() => server.disconnect('a', options), { code: 'ERR_WSMB_OPTION' });
  }
  t.true(server.has('a'));
  await server.close();
  t.throws(() => server.disconnect('a', 5000), ranges);
});

test('ids remain during a drain, and are gone once the server is closed', async (t) => {
  const server = await startServer(t);
  const asker = await startClient(t, server, 'a');
  const answerer = await startClient(t, server, 'b');
  const asked = once(answerer, 'message');
  asker.send(1, 'b', () => {});
  await asked;
  const closed = server.close({ drain: 60_000 });
  t.deepEqual(server.ids().sort(), ['a', 'b']);
  t.true(server.has('a'));
  t.true(server.disconnect('b'));
  await closed;
  const is = () => [server.ids(), server.has('a'), server.disconnect('a')];
  t.deepEqual(is(), [[], false, false]);
  const other = await startServer(t);
  await startClient(t, other, 'a');
  other.close();
  t.deepEqual([other.ids(), other.has('a'), other.disconnect('a')], [[], false, false]);
});

test('ready resolves after listening', async (t) => {
  const server = new WSMsgBroker.Server(HERE);
  t.teardown(() => server.close());
  const told = [];
  server.on('listening', () => told.push('listening'));
  const { ready } = server;
  t.is(server.ready, ready);
  t.is(await ready.then(() => told.push('ready')), 2);
  t.deepEqual(told, ['listening', 'ready']);
  const unasked = await startServer(t);
  t.is(await unasked.ready, undefined);
  await unasked.close();
  await unasked.ready;
});

test('ready rejects, and error is emitted, if the server cannot listen', async (t) => {
  const { port } = (await startServer(t)).address();
  const code = 'EADDRINUSE';
  const alone = new WSMsgBroker.Server({ ...HERE, port });
  t.like(await t.throwsAsync(alone.ready), { code, syscall: 'listen', port });
  const both = new WSMsgBroker.Server({ ...HERE, port });
  const heard = once(both, 'error');
  const { ready } = both;
  const [error] = await heard;
  await new Promise(setImmediate);
  t.is(await t.throwsAsync(ready), error);
  const late = new WSMsgBroker.Server({ ...HERE, port });
  const [told] = await once(late, 'error');
  const { ready: unused } = late;
  await new Promise(setImmediate);
  t.is(await t.throwsAsync(unused), told);
  t.deepEqual([late.ids(), late.has('a'), late.disconnect('a')], [[], false, false]);
});

test('failure to listen ends a process only if neither ready nor error is handled', async (t) => {
  const { port } = (await startServer(t)).address();
  /** The exit code of a program whose `server` cannot listen, and whether stderr contains the reason. */
  const run = (line) =>
    new Promise((resolve) => {
      const start = (number) => `new Server(${number}, '/', { host: '127.0.0.1' })`;
      const program = `const { Server } = require('.');
        const server = ${start(port)}, other = ${start(0)};
        ${line}; other.close();`;
      execFile(process.execPath, ['-e', program], { cwd: root }, (error, _out, err) =>
        resolve([error?.code ?? 0, err.includes('EADDRINUSE')]),
      );
    });
  const outcomes = await Promise.all(
    [
      '',
      'server.ready',
      'server.ready.catch(() => {})',
      "server.ready; server.on('error', () => {})",
      "server.on('error', () => setImmediate(() => server.ready))",
      "server.on('error', () => {}); other.ready",
    ].map(run),
  );
  const dies = [1, true];
  const lives = [0, false];
  t.deepEqual(outcomes, [dies, dies, lives, lives, lives, lives]);
});

test('ready rejects if the server is closed first', async (t) => {
  const server = new WSMsgBroker.Server(HERE);
  server.on('listening', () => t.fail('listening after close'));
  const { ready } = server;
  await server.close();
  const error = await t.throwsAsync(ready, { code: 'ERR_WSMB_NOT_OPEN' });
  t.is(await t.throwsAsync(server.ready), error);
  const unasked = new WSMsgBroker.Server(HERE);
  await unasked.close();
  await t.throwsAsync(unasked.ready, { code: 'ERR_WSMB_NOT_OPEN' });
});

test('asynchronous disposal closes the server', async (t) => {
  const server = await startServer(t);
  const client = await startClient(t, server, 'a');
  const ended = once(client, 'close');
  const dispose = Symbol.asyncDispose ?? Symbol.for('nodejs.asyncDispose');
  t.is(await server[dispose](), undefined);
  t.deepEqual(await ended, [1001, 'server is closing']);
  t.is(server.address(), null);
  await server[dispose]();
});

test("the server's own id has a default and the maximum length of ids", async (t) => {
  t.is((await startServer(t)).id, 'server');
  t.is((await startServer(t, { maxIdLength: 3 })).id, 'server');
  t.is((await startServer(t, { id: 'é'.repeat(4096) })).id, 'é'.repeat(4096));
  t.is((await startServer(t, { id: 'hub', maxIdLength: 3 })).id, 'hub');
  const make = (options) => () => new WSMsgBroker.Server({ ...HERE, ...options });
  const code = 'ERR_WSMB_OPTION';
  t.throws(make({ id: 5 }), { code, instanceOf: TypeError, message: /"id"/ });
  t.throws(make({ id: null }), { code, instanceOf: TypeError });
  for (const options of [
    { id: '' },
    { id: `${'é'.repeat(4096)}x` },
    { id: 'hubs', maxIdLength: 3 },
  ]) {
    t.throws(make(options), { code, instanceOf: RangeError, message: /"id"/ });
  }
});
