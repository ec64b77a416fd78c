'use strict';

// Sessions (rule 40 of spec/protocol.md) when something else happens while the connection is lost.

const { once } = require('node:events');
const test = require('ava');
const { WebSocketServer } = require('ws');
const { startServer } = require('./support/start');
const { startRelay } = require('./support/relay');
const { kinds, urlOf, open, failure, aborted } = require('./support/clients');
const { QUICK, start, cut, take, raw } = require('./support/sessions');

/** Lets the client of a world come back. */
async function resume({ relay, client }) {
  const resumed = once(client, 'resumed');
  relay.mend();
  await resumed;
}

/** A WebSocket server that calls `answer(send, frame, number, socket)` for each frame of its connections. */
async function startFake(t, answer) {
  const fake = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.teardown(() => {
    for (const socket of fake.clients) socket.terminate();
    fake.close();
  });
  let count = 0;
  fake.on('connection', (socket) => {
    const number = count;
    count += 1;
    const send = (frame) => socket.send(JSON.stringify(frame));
    socket.on('message', (data) => answer(send, JSON.parse(data), number, socket));
  });
  await once(fake, 'listening');
  return fake;
}

for (const kind of kinds) {
  test(`${kind}: subscriptions and watches begin and end while the connection is lost`, async (t) => {
    const world = await start(t, kind);
    const { server, client, peer } = world;
    const old = await client.subscribe('old');
    await cut(world);
    const begun = client.subscribe('new');
    const room = client.presence('room');
    const ended = old.unsubscribe();
    client.on('message', (message) => t.fail(`${message} is for no subscription`));
    await resume(world);
    await ended;
    const heard = once(await begun, 'message');
    await room;
    t.is(server.stats().subscriptions, 1);
    await peer.deliver('o', { topic: 'old' });
    await peer.deliver('n', { topic: 'new' });
    t.is((await heard)[0], 'n');
  });

  test(`${kind}: rule 40.4: connections that are cut every few kilobytes make progress in both directions`, async (t) => {
    const world = await start(t, kind);
    const { server, relay, client, peer } = world;
    client.on('registered', () => t.fail('the session was lost'));
    const expected = Array.from({ length: 100 }, (_, n) => n);
    const pad = 'x'.repeat(9000);
    const taken = [take(client, 100), take(peer, 100)];
    await cut(world);
    for (const n of expected) {
      peer.send([n, pad], 'client');
      client.send([n, pad], 'peer');
    }
    relay.limitTo(50_000);
    relay.mend();
    for (const messages of await Promise.all(taken)) {
      t.deepEqual(
        messages.map(([n]) => n),
        expected,
      );
    }
    t.true(server.stats().sessionsResumed >= 17);
  });

  test(`${kind}: jobs that wait for a member that is away are assigned when it is back`, async (t) => {
    const world = await start(t, kind);
    const { client, peer } = world;
    const jobs = await client.subscribe('jobs', { group: 'workers' });
    const taken = take(jobs, 3);
    await cut(world);
    await peer.deliver(0, { topic: 'jobs' });
    await peer.deliver(1, { topic: 'jobs' });
    await resume(world);
    await peer.deliver(2, { topic: 'jobs' });
    t.deepEqual(await taken, [0, 1, 2]);
  });

  test(`${kind}: jobs that are finished while the connection is lost make room for others`, async (t) => {
    const world = await start(t, kind);
    const { client, peer } = world;
    const jobs = await client.subscribe('jobs', { group: 'workers', window: 1 });
    const stream = jobs.messages();
    await peer.deliver(0, { topic: 'jobs' });
    t.is((await stream.next()).value.message, 0);
    await cut(world);
    // The request for the next one finishes the first.
    let next = stream.next();
    await resume(world);
    for (let n = 1; n < 5; n += 1) {
      await peer.deliver(n, { topic: 'jobs' });
      t.is((await next).value.message, n);
      next = stream.next();
    }
  });

  test(`${kind}: renewals of the grant are not counted as messages`, async (t) => {
    const authenticate = ({ token }) => ({ principal: token });
    const world = await start(t, kind, { server: { authenticate }, client: { token: 'ann' } });
    const { server, client, peer } = world;
    const taken = take(peer, 5);
    client.send(0, 'peer');
    for (let n = 0; n < 3; n += 1) {
      const renewed = once(server, 'registered');
      client.register('ann');
      await renewed;
    }
    client.send(1, 'peer');
    await client.deliver(2, 'peer');
    await cut(world);
    client.send(3, 'peer');
    await resume(world);
    await client.deliver(4, 'peer');
    t.deepEqual(await taken, [0, 1, 2, 3, 4]);
  });

  test(`${kind}: close() while the connection is lost cancels the requests that have arrived`, async (t) => {
    const world = await start(t, kind);
    const { client, peer } = world;
    const arrived = once(client, 'message');
    const asked = failure(peer.request('?', 'client'));
    const [, response] = await arrived;
    const cancelled = aborted(response.signal);
    await cut(world);
    await client.close();
    t.is(await cancelled, 'ERR_WSMB_CANCELLED');
    await peer.close();
    t.is((await asked).code, 'ERR_WSMB_CLOSED');
  });

  test(`${kind}: drain() while the connection is lost first sends what the broker has not received`, async (t) => {
    const world = await start(t, kind, { client: { reconnect: { minDelay: 60_000, jitter: 0 } } });
    const { server, relay, client, peer } = world;
    const arrived = once(client, 'message');
    const asked = peer.request('?', 'client');
    const [, response] = await arrived;
    const taken = take(peer, 1);
    await cut(world);
    client.send('last', 'peer');
    relay.mend();
    const drained = client.drain();
    response.send('answer');
    t.is((await asked).message, 'answer');
    await drained;
    t.deepEqual(await taken, ['last']);
    t.is(server.stats().sessionsResumed, 1);
    t.false(server.has('client'));
  });

  test(`${kind}: requests of a session that has ended are sent again before later messages`, async (t) => {
    const world = await start(t, kind, {
      server: { sessionTimeout: 1000 },
      client: { resend: 'requests' },
    });
    const { server, relay, client, peer } = world;
    const taken = take(peer, 4);
    const reached = once(peer, 'message');
    client.request('first', 'peer').catch(() => {});
    await reached;
    const gone = once(server, 'unregistered');
    await cut(world);
    client.send('second', 'peer');
    client.request('third', 'peer').catch(() => {});
    await gone;
    relay.mend();
    t.deepEqual(await taken, ['first', 'first', 'second', 'third']);
  });

  test(`${kind}: of several addresses the one with the session is tried first`, async (t) => {
    const server = await startServer(t, { sessionTimeout: 30_000 });
    const other = await startServer(t, { sessionTimeout: 30_000 });
    const relay = await startRelay(t, server);
    const near = `ws://127.0.0.1:${relay.address().port}/`;
    const client = open(t, kind, 'client', [near, urlOf(other)], { reconnect: QUICK });
    await client.connected();
    const resumed = once(client, 'resumed');
    relay.cutNear();
    await resumed;
    t.is(other.stats().connections, 0);
    const registered = once(client, 'registered');
    relay.cut();
    await registered;
    t.is(other.stats().connections, 1);
  });

  test(`${kind}: a session that the client does not want to continue is not continued`, async (t) => {
    const requests = [];
    const fake = await startFake(t, (send, { action, session }, number) => {
      if (action === 'register') {
        requests.push(session.token);
        const resumed = number === 0 ? { resumed: true, count: 0 } : {};
        const granted = { token: `${number}`, timeout: 1000, ...resumed };
        send({ action: 'registered', id: 'a', session: granted, protocol: 2 });
      }
    });
    const url = `ws://127.0.0.1:${fake.address().port}/`;
    await open(t, kind, 'a', url, { reconnect: QUICK }).connected();
    t.deepEqual(requests, [undefined, undefined]);
  });

  test(`${kind}: rule 40.2: errors of a connection that does not continue the session are not counted`, async (t) => {
    const requests = [];
    let end;
    const ended = new Promise((resolve) => {
      end = resolve;
    });
    const fake = await startFake(t, (send, { action, session }, number, socket) => {
      if (action !== 'register') return;
      requests.push(session.count);
      if (number === 0) {
        const granted = { token: 'secret', timeout: 60_000 };
        send({ action: 'registered', id: 'a', session: granted, protocol: 2 });
        send({ action: 'message', message: 1, from: 'b' });
        setImmediate(() => socket.terminate());
      } else {
        send({ action: 'error', code: 'BUSY', message: 'later', ref: null });
        socket.close(1013);
        if (number === 2) end();
      }
    });
    const url = `ws://127.0.0.1:${fake.address().port}/`;
    const client = open(t, kind, 'a', url, { reconnect: QUICK });
    client.on('error', () => {});
    await ended;
    t.deepEqual(requests, [undefined, 1, 1]);
  });
}

test('20.5: the rate limit of a session continues with it', async (t) => {
  const rateLimit = { messages: 1000, bytes: 20_000 };
  const server = await startServer(t, { sessionTimeout: 30_000, rateLimit });
  const first = await raw(t, server, 'a', { timeout: 30_000 });
  const { session } = await first.next();
  const message = 'x'.repeat(3000);
  for (let n = 0; n < 5; n += 1) first.send({ action: 'send', message, dest: [] });
  first.send({ action: 'send', message: 'last', dest: 'a' });
  t.is((await first.next()).message, 'last');
  first.socket.terminate();
  const second = await raw(t, server, 'a', { ...session, count: 1 });
  t.true((await second.next()).session.resumed);
  second.send({ action: 'send', message: 'again', dest: 'a' });
  t.is((await second.next()).message, 'again');
});

test('rule 40.8: a suspended session ends when its grant expires, and its connection is reported once', async (t) => {
  const server = await startServer(t, {
    sessionTimeout: 30_000,
    authenticate: () => ({ principal: 'ann', expires: new Date(Date.now() + 1000) }),
  });
  const ends = [];
  server.on('disconnected', ({ reason }) => ends.push(reason));
  const client = await raw(t, server, 'a', { timeout: 30_000 });
  await client.next();
  const gone = once(server, 'unregistered');
  client.socket.terminate();
  await gone;
  while (server.stats().sessions > 0) await new Promise(setImmediate);
  const { connections, sessionsSuspended, sessionsEnded } = server.stats();
  t.deepEqual([connections, sessionsSuspended, sessionsEnded], [0, 0, 1]);
  t.deepEqual(ends, ['lost']);
});

test('the option session is a boolean or a number', (t) => {
  for (const session of ['5000', 0, Number.NaN, null]) {
    const error = t.throws(() => open(t, 'addon', 'a', 'ws://127.0.0.1:1/', { session }));
    t.is(error.code, 'ERR_WSMB_OPTION');
  }
});
