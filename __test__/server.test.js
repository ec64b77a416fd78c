'use strict';

const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { once } = require('node:events');
const { Worker } = require('node:worker_threads');
const test = require('ava');
const { WebSocket } = require('./original');
const { WSMsgBroker, startLasting, startServer, startClient } = require('./support/start');

/** An open raw WebSocket. */
async function connect(t, server) {
  const socket = new WebSocket(`ws://127.0.0.1:${server.address().port}/`);
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  return socket;
}

test('address() and stats() return values while it listens, and null once it is closed', async (t) => {
  const server = await startServer(t);
  const { address, family, port } = server.address();
  t.deepEqual([address, family, port > 0], ['127.0.0.1', 'IPv4', true]);
  const client = await startClient(t, server, 'a');
  const heard = once(client, 'message');
  client.send(1, 'a');
  await heard;
  const { connections, registered, accepted, messagesIn, messagesOut } = server.stats();
  t.deepEqual([connections, registered, accepted, messagesIn, messagesOut > 0], [1, 1, 1, 2, true]);
  await server.close();
  t.is(server.address(), null);
  t.is(server.stats(), null);
  t.is(server.wss, null);
});

test('a port can be listened on again in the tick in which its server was closed', async (t) => {
  const first = await startLasting(t);
  const { port } = first.address();
  for (let n = 0; n < 20; n += 1) {
    const closed = new WSMsgBroker.Server(port, '/', { host: '127.0.0.1' });
    closed.on('error', (error) => t.fail(error.message));
    if (n === 0) {
      // The first server still listens, so this one could not.
      closed.removeAllListeners('error');
      const [error] = await once(closed, 'error');
      t.like(error, { code: 'EADDRINUSE', syscall: 'listen', address: '127.0.0.1', port });
      first.close();
    }
    closed.close();
  }
  const last = new WSMsgBroker.Server(port, '/', { host: '127.0.0.1' });
  await once(last, 'listening');
  await last.close();
});

test('close() closes its clients with 1001 and resolves when they are gone', async (t) => {
  const server = await startServer(t);
  const client = await startClient(t, server, 'a');
  const gone = [];
  server.on('unregistered', (id) => gone.push(id));
  const closed = once(client, 'close');
  await server.close();
  t.deepEqual(gone, ['a']);
  t.deepEqual(await closed, [1001, 'server is closing']);
});

test('listens on a Unix socket when its port is a name', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  const file = path.join(folder, 'broker');
  const server = new WSMsgBroker.Server(file);
  await once(server, 'listening');
  t.is(server.address(), file);
  const socket = net.connect(file);
  socket.write('GET / HTTP/1.1\r\n\r\n');
  const [answer] = await once(socket, 'data');
  t.regex(answer.toString(), /^HTTP\/1.1 426 /);
  socket.destroy();
  await server.close();
  t.false(fs.existsSync(file));
  fs.rmSync(folder, { recursive: true });
});

test('survives invalid frames without an error listener', async (t) => {
  const server = await startServer(t);
  const socket = await connect(t, server);
  for (const text of ['{', 'null', '{}', '{"action":"send"}', '{"action":"answer"}']) {
    socket.send(text);
  }
  socket.send(Buffer.from([1, 2, 3]));
  socket.send('{"action":"register","id":"a"}');
  t.is((await once(socket, 'message'))[0], '{"action":"registered","id":"a"}');
  t.is(server.stats().errors, 6);
});

test('emits an error for each invalid frame, with the text of the engine for invalid JSON', async (t) => {
  const server = await startServer(t);
  const socket = await connect(t, server);
  const errors = [];
  const done = new Promise((resolve) => {
    server.on('error', (error) => errors.push(error) === 3 && resolve());
  });
  socket.send('{"a" 1}');
  socket.send('null');
  socket.send(`{${'x'.repeat(10_000)}`);
  await done;
  const engine = t.throws(() => JSON.parse('{"a" 1}'));
  t.is(errors[0].message, engine.message);
  t.true(errors[0] instanceof SyntaxError && errors[1] instanceof TypeError);
  t.true(errors[2] instanceof SyntaxError);
  t.deepEqual(
    errors.map(({ code }) => code),
    Array(3).fill('ERR_WSMB_JSON'),
  );
});

test('emits warn for an unknown id', async (t) => {
  const server = await startServer(t);
  const client = await startClient(t, server, 'a');
  const warning = once(server, 'warn');
  client.send(1, 'nobody');
  const [error] = await warning;
  t.is(error.message, 'Unable to send message. Client "nobody" unknown');
  t.is(error.code, 'ERR_WSMB_UNKNOWN_ID');
});

test('counts events dropped for busy JavaScript, and never loses a registration', async (t) => {
  const server = await startServer(t);
  const ids = new Set();
  server.on('registered', (id) => ids.add(id));
  let early = 0;
  server.on('unregistered', (id) => {
    early += ids.delete(id) ? 0 : 1;
  });
  let warned = 0;
  let dropped = 0;
  server.on('warn', () => {
    warned += 1;
  });
  server.on('dropped', (count) => {
    dropped += count;
  });
  const flood = `
    const { workerData } = require('node:worker_threads');
    const { WebSocket } = require(workerData.original);
    const socket = new WebSocket(workerData.url);
    // Long enough that registrations alone exceed the queue for JavaScript, and that the queue is full at
    // some point between a registration and its end.
    const pad = 'x'.repeat(900);
    socket.on('open', () => {
      for (let n = 0; n < 20000; n += 1) {
        socket.send(JSON.stringify({ action: 'send', message: 1, dest: 'nobody' }));
        socket.send(JSON.stringify({ action: 'register', id: 'id' + n + pad }));
      }
      socket.send(JSON.stringify({ action: 'send', message: 'done', dest: 'id19999' + pad }));
    });
    socket.on('message', (text) => text.includes('done') && socket.close());
  `;
  const url = `ws://127.0.0.1:${server.address().port}/`;
  const workerData = { url, original: require.resolve('./original') };
  const worker = new Worker(flood, { eval: true, workerData });
  // Blocks until the flood was routed, which does not need this thread.
  const blocked = new Int32Array(new SharedArrayBuffer(4));
  while (server.stats().messagesIn < 40_001) {
    Atomics.wait(blocked, 0, 0, 5);
  }
  await once(worker, 'exit');
  const client = await startClient(t, server, 'last');
  client.send(1, 'nobody');
  await once(server, 'warn');
  t.deepEqual([...ids], ['last']);
  t.is(early, 0, 'unregistered was emitted before registered');
  t.true(dropped > 0, 'the flood was larger than the queue');
  t.is(warned + dropped, 20_001);
});

test('emits slow and closes a receiver that does not read, and the sender continues', async (t) => {
  const options = { maxBackpressure: 65_536, slowConsumerTimeout: 100, closeTimeout: 100 };
  const server = await startServer(t, options);
  const socket = net.connect(server.address().port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.write(
    'GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  );
  const register = Buffer.from('{"action":"register","id":"slow"}');
  const registered = once(server, 'registered');
  socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | register.length, 0, 0, 0, 0]), register]));
  await registered;
  socket.pause();
  const client = await startClient(t, server, 'a');
  const slow = once(server, 'slow');
  const message = 'x'.repeat(1_000_000);
  for (let n = 0; n < 20; n += 1) {
    client.send(message, 'slow');
  }
  const heard = once(client, 'message');
  client.send('done', 'a');
  t.deepEqual(await slow, ['slow', 'closed']);
  t.is((await heard)[0], 'done');
  t.is(server.stats().slow, 1);
});

test('forgets requests after ttl', async (t) => {
  const server = await startServer(t);
  server.ttl = 20;
  t.is(server.ttl, 20);
  const asker = await startClient(t, server, 'asker');
  const answerer = await startClient(t, server, 'answerer');
  const asked = once(answerer, 'message');
  asker.send(1, 'answerer', () => t.fail('answered too late'));
  const [, response] = await asked;
  while (server.stats().pending > 0) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  response.send('late');
  const heard = once(asker, 'message');
  answerer.send('next', 'asker');
  t.is((await heard)[0], 'next');
});

test('rejects options with an unknown name, a wrong type or a value out of range', (t) => {
  const make = (options) => () => new WSMsgBroker.Server(0, '/', options);
  t.throws(make({ maxDest: -1 }), {
    code: 'ERR_WSMB_OPTION',
    instanceOf: TypeError,
    message: /maxDest/,
  });
  t.throws(make({ maxDest: 0 }), {
    code: 'ERR_WSMB_OPTION',
    instanceOf: RangeError,
    message: /maxDest/,
  });
  t.throws(make({ threads: 0 }), { code: 'ERR_WSMB_OPTION', message: /threads/ });
  t.throws(make({ slowConsumer: 'nobody' }), { code: 'ERR_WSMB_OPTION', message: /slowConsumer/ });
  t.throws(make({ nothing: 1 }), { code: 'ERR_WSMB_OPTION', message: /nothing/ });
  t.throws(() => new WSMsgBroker.Server(70_000), {
    code: 'ERR_SOCKET_BAD_PORT',
    instanceOf: RangeError,
  });
  t.throws(() => new WSMsgBroker.Server(), { instanceOf: TypeError });
});

test('rejects fractions where whole numbers are required', async (t) => {
  const { serverOptions } = require('../lib/options');
  const numbers = Object.keys(serverOptions).filter((name) => serverOptions[name] === 'number');
  t.true(numbers.length > 15);
  const options = numbers.map((name) => [name, (value) => ({ [name]: value })]);
  for (const member of ['messages', 'bytes']) {
    options.push([`rateLimit.${member}`, (value) => ({ rateLimit: { [member]: value } })]);
  }
  for (const [name, option] of options) {
    for (const value of [0.5, 1e5 + 0.5, Number.POSITIVE_INFINITY]) {
      // If such a value were accepted, the server would listen on the loopback only.
      const make = () => new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...option(value) });
      const error = t.throws(make, { code: 'ERR_WSMB_OPTION', instanceOf: RangeError }, name);
      t.true(error?.message.includes(`"${name}" is ${value}`), error?.message);
    }
  }
  const server = await startServer(t);
  t.throws(() => server.close({ drain: 0.5 }), { code: 'ERR_WSMB_OPTION', instanceOf: RangeError });
  t.not(server.address(), null);
});

test('rounds a ttl below one millisecond up to one, as setTimeout does', async (t) => {
  const server = await startServer(t);
  const { NativeServer } = require('../lib/native');
  const { setAckTimeout } = NativeServer.prototype;
  const set = [];
  // Restored within this tick. The test cannot observe whether an answer arrives within a millisecond.
  NativeServer.prototype.setAckTimeout = (millis) => set.push(millis);
  try {
    for (const ttl of [0.5, Number.MIN_VALUE, 1, 1.5, 20]) {
      server.ttl = ttl;
      t.is(server.ttl, ttl);
    }
  } finally {
    NativeServer.prototype.setAckTimeout = setAckTimeout;
  }
  t.deepEqual(set.map(Math.trunc), [1, 1, 1, 1, 20]);
});

test('emits events to listeners added after removeAllListeners', async (t) => {
  const server = await startServer(t);
  server.on('registered', () => t.fail('it was removed'));
  t.is(server.removeAllListeners(), server);
  const ids = [];
  server.on('registered', (id) => ids.push(id));
  await startClient(t, server, 'a');
  t.deepEqual(ids, ['a']);
  server.removeAllListeners('registered');
  await startClient(t, server, 'b');
  t.deepEqual(ids, ['a']);
});

test('shortens the texts of peers in its errors', async (t) => {
  const server = await startServer(t);
  const socket = await connect(t, server);
  const error = once(server, 'error').catch((thrown) => [thrown]);
  socket.send(JSON.stringify({ action: 'x'.repeat(1_000_000) }));
  t.true((await error)[0].message.length < 2000);
  const warning = once(server, 'warn');
  socket.send(JSON.stringify({ action: 'send', message: 1, dest: 'é'.repeat(20_000) }));
  t.true((await warning)[0].message.length < 10_000);
  const refused = once(server, 'error').catch((thrown) => [thrown]);
  socket.send(JSON.stringify({ action: 'send', message: 1, dest: 'é'.repeat(1_000_000) }));
  const [{ code, message }] = await refused;
  t.is(code, 'ERR_WSMB_MAX_ID_LENGTH');
  t.true(message.length < 2000);
});

test('rejects an ack that is longer than the maximum of an id', async (t) => {
  const server = await startServer(t);
  const socket = await connect(t, server);
  socket.send('{"action":"register","id":"a"}');
  await once(socket, 'message');
  const refused = new Promise((resolve) => server.on('error', resolve));
  socket.send(JSON.stringify({ action: 'send', message: 1, dest: 'a', ack: 'x'.repeat(8193) }));
  t.is((await refused).code, 'ERR_WSMB_MAX_ID_LENGTH');
  t.is(server.stats().pending, 0);
});

test('a drain lets pending requests complete', async (t) => {
  const server = await startServer(t);
  const asker = await startClient(t, server, 'asker');
  const responder = await startClient(t, server, 'responder');
  const asked = once(responder, 'message');
  const answered = new Promise((resolve) => {
    asker.send(1, 'responder', (_from, answer) => resolve(answer));
  });
  const [, response] = await asked;
  const gone = once(asker, 'close');
  const closed = server.close({ drain: 60_000 });
  t.is(server.wss, null);
  t.is(
    await Promise.race([gone, new Promise((resolve) => setTimeout(resolve, 100, 'open'))]),
    'open',
  );
  response.send('late, but in time');
  t.is(await answered, 'late, but in time');
  t.deepEqual(await gone, [1001, 'server is closing']);
  await closed;
  const error = t.throws(() => server.close({ drain: 'x' }));
  t.is(error.code, 'ERR_WSMB_OPTION');
});

test('accepts options after the port', async (t) => {
  const server = new WSMsgBroker.Server(0, { host: '127.0.0.1', path: 'foo', maxDest: 3 });
  t.teardown(() => server.close());
  await server.ready;
  t.is(server.address().address, '127.0.0.1');
  t.is(server.wss.options.path, '/foo');
  t.throws(() => new WSMsgBroker.Server(0, { hots: '127.0.0.1' }), { code: 'ERR_WSMB_OPTION' });
});

test('stats() counts enforced limits', async (t) => {
  const server = await startServer(t, { maxProtocolErrors: 1, registerTimeout: 2000 });
  const client = await startClient(t, server, 'a');
  const closed = once(client, 'close');
  const socket = await connect(t, server);
  socket.send('{"action":"register","id":"b"}');
  await once(socket, 'message');
  const refused = once(socket, 'close');
  socket.send('no JSON');
  socket.send('no JSON');
  t.is((await refused)[0], 1008);
  const silent = await connect(t, server);
  t.is((await once(silent, 'close'))[0], 1008);
  client.close();
  await closed;
  const { violations, unregistered, memory, dead, evicted, dropped, denied, throttled } =
    server.stats();
  t.deepEqual([violations, unregistered], [1, 1]);
  t.deepEqual([dead, evicted, dropped, denied, throttled], [0, 0, 0, 0, 0]);
  t.true(Number.isInteger(memory) && memory >= 0);
});
