'use strict';

// The function `authorize`, which allows subscriptions beyond a grant.

const { on, once } = require('node:events');
const test = require('ava');
const WebSocket = require('ws');
const { startServer, WSMsgBroker } = require('./support/start');
const { kinds, join, open, urlOf, failure } = require('./support/clients');

const grant = () => ({ principal: 'ann', publish: '>', subscribe: 'free.*' });

/** A function whose calls the test answers: `next()` resolves with the request, and functions that settle it. */
function held() {
  const calls = [];
  let wake = () => {};
  const authorize = (request) =>
    new Promise((resolve, reject) => {
      calls.push({ request, resolve, reject });
      wake();
    });
  const next = async () => {
    while (calls.length === 0) {
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
    return calls.shift();
  };
  return { authorize, next };
}

for (const kind of kinds) {
  test(`${kind}: authorize allows subscriptions that the grant does not cover`, async (t) => {
    const asked = [];
    const authorize = (request) => {
      asked.push(request);
      return request.token === 'ticket' || request.topic === 'open';
    };
    const server = await startServer(t, { authenticate: grant, authorize });
    const client = await join(t, kind, server, 'c');
    await client.subscribe('free.1');
    t.deepEqual(asked, []);
    const room = await client.subscribe('room.*', { token: 'ticket' });
    await client.subscribe('open', { group: 'g' });
    const refused = await failure(client.subscribe('secret', { token: 'forged' }));
    t.is(refused.code, 'ERR_WSMB_FORBIDDEN');
    const action = 'subscribe';
    const who = { id: 'c', principal: 'ann', action };
    t.deepEqual(asked, [
      { ...who, topic: 'room.*', token: 'ticket' },
      { ...who, topic: 'open', token: undefined },
      { ...who, topic: 'secret', token: 'forged' },
    ]);
    const messages = room.messages();
    t.deepEqual(await client.deliver(1, { topic: 'room.7' }), { queued: 1, dropped: 0 });
    t.is((await messages.next()).value.message, 1);
    // The permission is for this subscription, and lasts as long.
    await client.subscribe('room.*', { slow: 'latest' });
    t.is(asked.length, 3);
    t.is((await failure(client.subscribe('room.*', { group: 'g' }))).code, 'ERR_WSMB_FORBIDDEN');
    t.is((await failure(client.subscribe('room.7'))).code, 'ERR_WSMB_FORBIDDEN');
  });

  test(`${kind}: a permission outlives a renewal, and ends with the connection`, async (t) => {
    const tokens = [];
    const authorize = ({ token }) => {
      tokens.push(token);
      return tokens.length === 1;
    };
    const server = await startServer(t, { authenticate: grant, authorize });
    const reconnect = { minDelay: 1, maxDelay: 1 };
    const client = await open(t, kind, 'c', urlOf(server), { reconnect }).connected();
    const room = await client.subscribe('room', { token: 'ticket' });
    const renewed = once(client, 'registered');
    client.register();
    await renewed;
    await client.request(0, 'nobody').catch(() => {});
    t.deepEqual([room.isEnded, tokens], [false, ['ticket']]);
    const ended = once(room, 'end');
    server.disconnect('c');
    t.is((await ended)[0].code, 'ERR_WSMB_FORBIDDEN');
    t.deepEqual(tokens, ['ticket', 'ticket']);
    t.deepEqual(server.subscribers('room'), []);
  });

  test(`${kind}: actions of a client keep their order while authorize decides`, async (t) => {
    const { authorize, next } = held();
    const server = await startServer(t, { authenticate: grant, authorize });
    const client = await join(t, kind, server, 'c');
    const other = await join(t, kind, server, 'other');
    const subscribed = client.subscribe('room');
    const delivered = client.deliver(1, { topic: 'room' });
    const call = await next();
    // Others go on, and the client gets messages.
    const arrived = once(client, 'message');
    await other.deliver('hello', 'c');
    t.is((await arrived)[0], 'hello');
    t.deepEqual(await other.deliver(1, { topic: 'room' }), { queued: 0, dropped: 0 });
    call.resolve(true);
    t.is((await subscribed).topic, 'room');
    t.deepEqual(await delivered, { queued: 1, dropped: 0 });
  });
}

test('a subscription is refused if authorize fails, and a fault is an error of the program', async (t) => {
  const results = new Map([
    ['false', () => false],
    ['nothing', () => {}],
    [
      'denial',
      () => Promise.reject(Object.assign(new Error('no'), { code: 'ERR_WSMB_FORBIDDEN' })),
    ],
    ['text', () => 'yes'],
    ['throws', () => Promise.reject(new Error('broken'))],
    ['throws-nothing', () => Promise.reject()],
    ['late', () => new Promise(() => {})],
  ]);
  const authorize = ({ topic }) => results.get(topic)();
  const server = await startServer(t, { authenticate: grant, authorize, authenticateTimeout: 200 });
  const faults = [];
  server.on('error', (error) => {
    if (error.code !== 'ERR_WSMB_FORBIDDEN') faults.push(error.message);
  });
  const client = await join(t, 'addon', server, 'c');
  for (const topic of results.keys()) {
    t.is((await failure(client.subscribe(topic))).code, 'ERR_WSMB_FORBIDDEN', topic);
  }
  t.deepEqual(faults, [
    'authorize returned a string, expected true or false',
    'broken',
    'the function threw undefined',
  ]);
  t.is(server.stats().subscriptions, 0);
});

test('a client that goes or loses its id while authorize decides has no subscription', async (t) => {
  const { authorize, next } = held();
  const server = await startServer(t, { authenticate: grant, authorize });
  const client = await join(t, 'addon', server, 'c');
  const asked = failure(client.subscribe('room'));
  const first = await next();
  const second = await join(t, 'addon', server, 'c');
  first.resolve(true);
  t.is((await asked).code, 'ERR_WSMB_NOT_REGISTERED');
  t.deepEqual(server.subscribers('room'), []);
  second.subscribe('room').catch(() => {});
  const call = await next();
  server.disconnect('c');
  await once(second, 'close');
  call.resolve(true);
  t.is(server.stats().subscriptions, 0);
});

test('a token is a string of at most 64 KiB', async (t) => {
  const server = await startServer(t, { authenticate: grant, authorize: () => true });
  const client = await join(t, 'addon', server, 'c');
  const code = async (token) => (await failure(client.subscribe('room', { token }))).code;
  t.is(await code(7), 'ERR_WSMB_OPTION');
  t.is(await code('t'.repeat((64 << 10) + 1)), 'ERR_WSMB_MEMBER');
  await client.subscribe('room', { token: 't'.repeat(64 << 10) });
  // On the wire a token of another type is none.
  const socket = new WebSocket(urlOf(server));
  t.teardown(() => socket.terminate());
  const frames = on(socket, 'message');
  await once(socket, 'open');
  socket.send('{"action":"register","id":"d","protocol":2}');
  socket.send('{"token":{},"topic":"room","action":"subscribe","ref":"r"}');
  await frames.next();
  const { value } = await frames.next();
  t.is(String(value[0]), '{"action":"subscribed","topic":"room","ref":"r"}');
});

test('authorize needs grants', (t) => {
  const { Server } = WSMsgBroker;
  const authorize = () => true;
  t.throws(() => new Server({ port: 0, authorize }), {
    code: 'ERR_WSMB_OPTION',
    message: 'option "authorize" needs option "authenticate" or "jwt"',
  });
  t.throws(() => new Server({ port: 0, authenticate: grant, authorize: true }), {
    code: 'ERR_WSMB_OPTION',
  });
});
