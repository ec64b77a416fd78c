'use strict';

const net = require('node:net');
const { once } = require('node:events');
const test = require('ava');
const ws = require('ws');
const { lastingPort } = require('../testkit/ports');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

test('accepts a URL as its address', async (t) => {
  const server = await startServer(t, { path: 'foo' });
  const client = new WSMsgBroker('a', `ws://127.0.0.1:${server.address().port}/foo?x=1`);
  await once(client, 'registered');
  await client.close();
  const web = new URL(`http://127.0.0.1:${server.address().port}/foo`);
  for (const address of [web, web.href]) {
    const other = await new WSMsgBroker('a', address).connected();
    await other.close();
  }
  t.throws(() => new WSMsgBroker('a', 'ws://'), {
    code: 'ERR_WSMB_ADDRESS',
    instanceOf: TypeError,
  });
  const contradiction = () => new WSMsgBroker('a', 'ws://localhost', { tls: true });
  t.throws(contradiction, { code: 'ERR_WSMB_OPTION' });
});

test('is a class for `import`, with Server as its named export', async (t) => {
  const module = await import('../index.js');
  t.is(module.default, WSMsgBroker);
  t.is(module.Server, WSMsgBroker.Server);
});

test('sends messages queued before open in order, after the registration', async (t) => {
  const server = await startServer(t);
  const client = new WSMsgBroker('a', '127.0.0.1', server.address().port);
  const heard = [];
  client.on('message', (message) => heard.push(message));
  for (let n = 0; n < 100; n += 1) {
    t.true(client.send(n, 'a'));
  }
  const answer = new Promise((resolve) =>
    client.send('last', 'a', (_from, value) => resolve(value)),
  );
  client.on('message', (_message, response) => response?.send('done'));
  t.is(await answer, 'done');
  t.deepEqual(heard, [...Array(100).keys(), 'last']);
  await client.close();
});

test('matches answers to callbacks, releases the callbacks, and passes `from` with a message', async (t) => {
  const server = await startServer(t);
  const asker = await startClient(t, server, 'asker');
  const answerer = await startClient(t, server, 'answerer');
  answerer.on('message', (n, response, from) => response.send({ n: n * 2, from }));
  const answers = await Promise.all(
    [...Array(500).keys()].map(
      (n) =>
        new Promise((resolve) => asker.send(n, 'answerer', (_from, answer) => resolve(answer))),
    ),
  );
  t.deepEqual(
    answers,
    [...Array(500).keys()].map((n) => ({ n: n * 2, from: 'asker' })),
  );
  t.deepEqual(Object.keys(asker.ack2callback), []);
});

test('`ack2callback` has the pending callbacks, and deleting one forgets it', async (t) => {
  const server = await startServer(t);
  const asker = await startClient(t, server, 'asker');
  const answerer = await startClient(t, server, 'answerer');
  const responses = [];
  const asked = new Promise((resolve) => {
    answerer.on('message', (n, response) => {
      responses.push(response);
      if (n === 2) resolve();
    });
  });
  const given = [];
  const answered = new Promise((resolve) => {
    const [drop, keep] = [() => given.push('dropped'), (_from, answer) => resolve(answer)];
    asker.send(1, 'answerer', drop);
    asker.send(2, 'answerer', keep);
    const [first, second] = Object.keys(asker.ack2callback);
    t.is(asker.ack2callback[first], drop);
    t.deepEqual(Object.values(asker.ack2callback), [drop, keep]);
    t.true(second in asker.ack2callback);
    t.is(asker.ack2callback.other, undefined);
    delete asker.ack2callback[first];
    t.deepEqual(Object.keys(asker.ack2callback), [second]);
  });
  const unknown = new Promise((resolve) => asker.once('error', resolve));
  await asked;
  for (const response of responses) response.send('done');
  t.is((await unknown).code, 'ERR_WSMB_UNKNOWN_ACK');
  t.is(await answered, 'done');
  t.deepEqual(given, []);
  t.deepEqual(Object.keys(asker.ack2callback), []);
});

test('carries any JSON value, small or large', async (t) => {
  const server = await startServer(t);
  const client = await startClient(t, server, 'a');
  const values = [
    null,
    '',
    0,
    false,
    'é€😀\u2028',
    { __proto__: null, a: [1] },
    'x'.repeat(3_000_000),
  ];
  const heard = [];
  const done = new Promise((resolve) => {
    client.on('message', (message) => heard.push(message) === values.length && resolve());
  });
  for (const value of values) {
    client.send(value, 'a');
  }
  await done;
  t.deepEqual(JSON.stringify(heard), JSON.stringify(values));
});

/** A played server that passes each frame of the client to `heard(frame, socket)`. */
async function startPlain(t, heard) {
  const server = new ws.WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.teardown(() => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  server.on('connection', (socket) => {
    socket.on('message', (text) => heard(JSON.parse(text), socket));
  });
  await once(server, 'listening');
  return server;
}

test('matches an answer by its ack, however the responder formats the JSON of the ack', async (t) => {
  const server = await startPlain(t, ({ action, id, ack }, socket) => {
    if (action === 'register') socket.send(JSON.stringify({ action: 'registered', id }));
    else socket.send(JSON.stringify({ action: 'answer', ack: [ack], from: 'x', message: 7 }));
  });
  const client = new WSMsgBroker('a', '127.0.0.1', server.address().port);
  t.is(await new Promise((resolve) => client.send(1, 'x', (_from, answer) => resolve(answer))), 7);
  t.deepEqual(Object.keys(client.ack2callback), []);
  await client.close();
});

test('survives an answer whose ack has no name', async (t) => {
  const server = await startPlain(t, (_frame, socket) => {
    socket.send('{"action":"answer","ack":{"toString":null},"from":"x","message":7}');
  });
  const client = new WSMsgBroker('a', '127.0.0.1', server.address().port);
  const [error] = await once(client, 'error');
  t.is(error.code, 'ERR_WSMB_UNKNOWN_ACK');
  await client.close();
});

test('emits no drain while messages are queued, even after others were sent in the same tick', async (t) => {
  const sockets = [];
  const server = await startPlain(t, ({ id }, socket) => {
    if (sockets.push(socket) === 1) socket.send(JSON.stringify({ action: 'registered', id }));
  });
  const client = new WSMsgBroker('a', '127.0.0.1', server.address().port, '', {
    highWaterMark: 1000,
  });
  await once(client, 'registered');
  sockets[0].pause();
  const waiting = [];
  client.on('drain', () => waiting.push(client.bufferedAmount));
  // First a batch that is handed over within the tick, then more than the system buffers.
  for (let n = 0; n < 100; n += 1) client.send('x'.repeat(100), 'x', () => {});
  for (let n = 0; n < 1000; n += 1) client.send('x'.repeat(60_000), 'x');
  const drained = once(client, 'drain');
  sockets[0].resume();
  await drained;
  t.deepEqual(waiting, [0]);
  await client.close();
});

test('send returns false above the high-water mark, loses nothing, and drain follows', async (t) => {
  const server = await startServer(t);
  const sender = await startClient(t, server, 'sender', { highWaterMark: 1000 });
  const receiver = await startClient(t, server, 'receiver');
  let count = 0;
  const all = new Promise((resolve) => {
    receiver.on('message', () => {
      count += 1;
      if (count === 50) resolve();
    });
  });
  const drained = once(sender, 'drain');
  const results = [...Array(50)].map(() => sender.send('x'.repeat(100), 'receiver'));
  t.true(results[0]);
  t.false(results[49]);
  await Promise.all([drained, all]);
  t.is(sender.bufferedAmount, 0);
});

test('send throws above maxQueued', async (t) => {
  const server = await startServer(t);
  const client = await startClient(t, server, 'a', { maxQueued: 1000 });
  t.throws(() => client.send('x'.repeat(2000), 'a'), { code: 'ERR_WSMB_MAX_QUEUED' });
  const heard = once(client, 'message');
  client.send('small', 'a');
  t.is((await heard)[0], 'small');
});

test('close() emits close once and returns a promise, and later calls throw', async (t) => {
  const server = await startServer(t);
  const client = await startClient(t, server, 'a');
  const codes = [];
  client.on('close', (...args) => codes.push(args));
  t.is(client.close(), client.close());
  await client.close();
  t.deepEqual(codes, [[1000]]);
  t.throws(() => client.send(1, 'a'), { message: 'not opened', code: 'ERR_WSMB_NOT_OPEN' });
  t.throws(() => client.unregister(), { message: 'not opened' });
});

test('close() in the tick of construction opens no connection', async (t) => {
  const listener = net.createServer(() => t.fail('a connection was opened')).listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const client = new WSMsgBroker('a', '127.0.0.1', listener.address().port);
  const closed = once(client, 'close');
  await client.close();
  t.deepEqual(await closed, [undefined]);
  await new Promise((resolve) => listener.close(resolve));
});

test('a failed connection emits error, which names the cause, and close, once each', async (t) => {
  const failing = async (host, port, options) => {
    const client = new WSMsgBroker('a', host, port, '/', options);
    const seen = [];
    client.on('error', (error) => seen.push(error.code, error.syscall));
    const code = await new Promise((resolve) => client.on('close', resolve));
    return [...seen, code];
  };
  const port = await lastingPort(t);
  t.deepEqual(await failing('127.0.0.1', port), ['ECONNREFUSED', 'connect', 1006]);
  t.deepEqual(await failing('localhost', port), ['ECONNREFUSED', 'connect', 1006]);
  t.deepEqual(await failing('no-such-host.invalid', 1), ['ENOTFOUND', 'getaddrinfo', 1006]);
  t.deepEqual(await failing('127.0.0.1', 'x'), ['ERR_SOCKET_BAD_PORT', undefined, 1006]);
  const silent = net.createServer(() => {}).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  t.deepEqual(await failing('127.0.0.1', silent.address().port, { connectTimeout: 50 }), [
    'ETIMEDOUT',
    undefined,
    1006,
  ]);
  silent.close();
});

test('rejects options with an unknown name, a wrong type or a value out of range', (t) => {
  const make = (options) => () => new WSMsgBroker('a', 'localhost', 1, '/', options);
  t.throws(make({ maxPayload: '1' }), { code: 'ERR_WSMB_OPTION', instanceOf: TypeError });
  t.throws(make({ maxPayload: Number.NaN }), { code: 'ERR_WSMB_OPTION', instanceOf: TypeError });
  t.throws(make({ maxQueued: 0 }), {
    code: 'ERR_WSMB_OPTION',
    instanceOf: RangeError,
    message: /maxQueued/,
  });
  const { clientOptions } = require('../lib/options');
  const numbers = Object.keys(clientOptions).filter((name) => clientOptions[name] === 'number');
  for (const name of numbers) {
    for (const value of [0.5, 1e5 + 0.5, Number.POSITIVE_INFINITY]) {
      t.throws(make({ [name]: value }), { code: 'ERR_WSMB_OPTION', instanceOf: RangeError }, name);
    }
  }
  t.throws(make({ closeTimeout: 0 }), { code: 'ERR_WSMB_OPTION', message: /closeTimeout/ });
  t.throws(make({ nothing: 1 }), { code: 'ERR_WSMB_OPTION', message: /nothing/ });
  t.throws(make('x'), { code: 'ERR_WSMB_OPTION' });
});

/** A server that sends a registered client one message in a frame of this size. */
async function sendFrame(t, bytes) {
  const server = new ws.WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.teardown(() => server.close());
  await once(server, 'listening');
  const told = new Promise((resolve) => {
    server.on('connection', (socket) => {
      socket.on('close', resolve);
      socket.once('message', () => {
        socket.send('{"action":"registered","id":"a"}');
        const empty = '{"action":"message","from":"b","message":""}';
        socket.send(empty.replace('""', `"${'x'.repeat(bytes - empty.length)}"`));
      });
    });
  });
  return { port: server.address().port, told };
}

test('receives a message of exactly maxPayload bytes', async (t) => {
  const { port, told } = await sendFrame(t, 1000);
  const client = new WSMsgBroker('a', '127.0.0.1', port, '/', { maxPayload: 1000 });
  const [message, , from] = await once(client, 'message');
  t.deepEqual([message.length, from], [956, 'b']);
  await client.close();
  t.is(await told, 1000);
});

test('closes with 1009 on a message larger than maxPayload', async (t) => {
  const { port, told } = await sendFrame(t, 1001);
  const client = new WSMsgBroker('a', '127.0.0.1', port, '/', { maxPayload: 1000 });
  const heard = [];
  client.on('message', () => heard.push('message'));
  client.on('error', (error) => heard.push(error.code));
  const closed = new Promise((resolve) => client.on('close', resolve));
  t.is(await closed, 1006);
  t.is(await told, 1009);
  t.deepEqual(heard, ['ERR_WSMB_WEBSOCKET']);
});

test('queues up to maxQueued and sends every queued message, whether or not others are refused', async (t) => {
  const server = await startServer(t);
  const bystander = await startClient(t, server, 'bystander');
  const sender = await startClient(t, server, 'sender', { maxQueued: 20_000 });
  const heard = [];
  bystander.on('message', (message) => heard.push(message));
  let accepted = 0;
  t.throws(
    () => {
      for (;;) {
        sender.send('\u4e2d', 'bystander');
        accepted += 1;
      }
    },
    { code: 'ERR_WSMB_MAX_QUEUED' },
  );
  bystander.send('own', 'bystander');
  while (heard.length < accepted + 1) {
    await once(bystander, 'message');
  }
  t.is(heard.filter((message) => message === '\u4e2d').length, accepted);
  t.true(sender.send('again', 'bystander'));
});

test('checks the current queue before it refuses to send', async (t) => {
  const server = await startServer(t);
  const client = await startClient(t, server, 'a', { maxQueued: 500_000 });
  const message = 'x'.repeat(100_000);
  for (let n = 0; n < 50; n += 1) {
    const heard = once(client, 'message');
    client.send(message, 'a');
    await heard;
  }
  t.is(client.bufferedAmount, 0);
});

test('emits error and close when its id cannot be written as JSON', async (t) => {
  const server = await startServer(t);
  const client = new WSMsgBroker(5n, '127.0.0.1', server.address().port);
  const seen = [];
  client.on('error', (error) => seen.push(error.constructor.name));
  client.on('close', (code) => seen.push(code));
  await new Promise((resolve) => client.on('close', resolve));
  t.deepEqual(seen, ['TypeError', 1006]);
  await client.close();
});
