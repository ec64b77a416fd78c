'use strict';

// Sessions: registrations that outlive a lost connection (rule 40 of spec/protocol.md).

const { execFile } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const { startServer } = require('./support/start');
const { kinds, open, join, failure } = require('./support/clients');
const { QUICK, start, cut, take, raw } = require('./support/sessions');

for (const kind of kinds) {
  test(`${kind}: rule 40.2: messages in both directions survive a lost connection, once and in order`, async (t) => {
    const world = await start(t, kind);
    const { server, relay, client, peer } = world;
    const seen = [];
    for (const name of ['registered', 'resumed', 'reconnected', 'unregistered', 'replaced']) {
      client.on(name, () => seen.push(name));
    }
    server.on('unregistered', (id) => seen.push(`${id} is gone`));
    const [ours, theirs] = [take(client, 400), take(peer, 400)];
    const send = (from, to) => {
      for (let n = from; n < to; n += 1) {
        client.send(n, 'peer');
        peer.send(n, 'client');
      }
    };
    for (let round = 0; round < 4; round += 1) {
      send(round * 100, round * 100 + 50);
      await cut(world);
      send(round * 100 + 50, round * 100 + 100);
      const resumed = once(client, 'resumed');
      relay.mend();
      await resumed;
    }
    const expected = [...Array(400).keys()];
    t.deepEqual(await ours, expected);
    t.deepEqual(await theirs, expected);
    t.deepEqual(seen, Array(4).fill(['resumed', 'reconnected']).flat());
    const { sessions, sessionsSuspended, sessionsResumed, sessionsEnded } = server.stats();
    t.deepEqual([sessions, sessionsSuspended, sessionsResumed, sessionsEnded], [1, 0, 4, 0]);
    t.is(server.stats().connections, 2);
  });

  test(`${kind}: requests in both directions are answered once over a lost connection`, async (t) => {
    const world = await start(t, kind);
    const { relay, client, peer } = world;
    let asked = 0;
    const answerLater = [];
    for (const [one, name] of [
      [client, 'client'],
      [peer, 'peer'],
    ]) {
      one.on('message', (message, response) => {
        asked += 1;
        answerLater.push(() => response.send(`${name} ${message}`));
      });
    }
    const requests = [client.request(1, 'peer'), peer.request(2, 'client')];
    while (asked < 2) await new Promise(setImmediate);
    await cut(world);
    requests.push(client.request(3, 'peer'), peer.request(4, 'client'));
    for (const answer of answerLater.splice(0)) answer();
    const resumed = once(client, 'resumed');
    relay.mend();
    await resumed;
    while (asked < 4) await new Promise(setImmediate);
    for (const answer of answerLater.splice(0)) answer();
    const answers = await Promise.all(requests);
    t.deepEqual(
      answers.map(({ message }) => message),
      ['peer 1', 'client 2', 'peer 3', 'client 4'],
    );
    t.is(asked, 4);
  });

  test(`${kind}: subscriptions, groups and presence continue`, async (t) => {
    const world = await start(t, kind, { server: { presenceTimeout: 0 } });
    const { server, relay, client, peer } = world;
    const room = await client.subscribe('room', { info: 'me' });
    const jobs = await client.subscribe('jobs', { group: 'workers' });
    const watch = await peer.presence('room');
    const changes = [];
    watch.on('change', (change) => changes.push(change));
    while (watch.count !== 1) await once(watch, 'change');
    changes.length = 0;
    const heard = [];
    room.on('message', (message) => heard.push(message));
    jobs.on('message', (message) => heard.push(`job ${message}`));
    await cut(world);
    peer.publish('while away', 'room');
    const { queued } = await peer.deliver('counted', { topic: 'room' });
    t.is(queued, 1);
    const resumed = once(client, 'resumed');
    relay.mend();
    await resumed;
    peer.publish('back', 'room');
    await peer.deliver('1', { topic: 'jobs' });
    while (heard.length < 4) await new Promise(setImmediate);
    t.deepEqual(heard, ['while away', 'counted', 'back', 'job 1']);
    t.deepEqual(changes, []);
    t.is(server.stats().subscriptions, 2);
  });

  test(`${kind}: a session ends with its time, and what was pending fails`, async (t) => {
    const world = await start(t, kind, { server: { sessionTimeout: 1000 } });
    const { server, relay, client, peer } = world;
    peer.on('message', () => {});
    const asked = failure(client.request('?', 'peer'));
    const reached = once(peer, 'message');
    await reached;
    const gone = once(server, 'unregistered');
    await cut(world);
    const pending = failure(peer.request('?', 'client'));
    t.deepEqual(await gone, ['client']);
    t.is((await pending).code, 'GONE');
    t.is((await asked).code, 'ERR_WSMB_CONNECTION_LOST');
    const registered = once(client, 'registered');
    relay.mend();
    await registered;
    const { sessions, sessionsSuspended, sessionsEnded } = server.stats();
    t.deepEqual([sessions, sessionsSuspended, sessionsEnded], [1, 0, 1]);
  });

  test(`${kind}: rule 40.9: the session ends when the client closes, or does not want one`, async (t) => {
    const world = await start(t, kind);
    const { server, relay, client } = world;
    const gone = once(server, 'unregistered');
    await client.close();
    await gone;
    t.is(server.stats().sessions, 0);
    const url = `ws://127.0.0.1:${relay.address().port}/`;
    const other = open(t, kind, 'other', url, { reconnect: QUICK, session: false });
    await other.connected();
    t.is(server.stats().sessions, 0);
    const lost = once(server, 'unregistered');
    relay.cut();
    t.deepEqual(await lost, ['other']);
  });

  test(`${kind}: rule 40.7: the broker keeps a session only up to its bound`, async (t) => {
    const world = await start(t, kind, { server: { maxSessionBuffer: 10_000 } });
    const { server, relay, client, peer } = world;
    const feed = await client.subscribe('feed');
    const gaps = [];
    feed.on('gap', ({ lost }) => gaps.push(lost));
    await cut(world);
    // Messages to topics are dropped, and counted.
    for (let n = 0; n < 100; n += 1) await peer.deliver('x'.repeat(200), { topic: 'feed' });
    t.is(server.stats().sessionsSuspended, 1);
    const resumed = once(client, 'resumed');
    relay.mend();
    await resumed;
    while (gaps.length === 0) await new Promise(setImmediate);
    t.true(gaps[0] > 30 && gaps[0] < 90, `${gaps}`);
    // Messages to the id are not: the session ends.
    await cut(world);
    const ended = once(server, 'unregistered');
    for (let n = 0; n < 100; n += 1) peer.send('x'.repeat(200), 'client');
    t.deepEqual(await ended, ['client']);
    t.is(server.stats().sessionsEnded, 1);
  });

  test(`${kind}: rule 40.8: another registration of the id ends the session`, async (t) => {
    const world = await start(t, kind);
    const { server, relay } = world;
    await cut(world);
    const second = await join(t, kind, server, 'client');
    while (server.stats().sessions > 0) await new Promise(setImmediate);
    t.is(server.stats().sessionsSuspended, 0);
    t.is(server.stats().registered, 2);
    await second.close();
    relay.mend();
  });

  test(`${kind}: a connection of which the broker does not know that it is lost is replaced`, async (t) => {
    const world = await start(t, kind);
    const { server, relay, client, peer } = world;
    const taken = take(client, 20);
    const resumed = once(client, 'resumed');
    for (let n = 0; n < 10; n += 1) peer.send(n, 'client');
    relay.cutNear();
    for (let n = 10; n < 20; n += 1) peer.send(n, 'client');
    await resumed;
    t.deepEqual(await taken, [...Array(20).keys()]);
    t.is(server.stats().connections, 2);
    t.is(server.stats().sessionsResumed, 1);
  });
}

test('nothing is lost or repeated over broken connections: soak/sessions.js', async (t) => {
  const script = path.join(__dirname, '..', 'soak', 'sessions.js');
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  const args = [script, '--breaks', '60', '--clients', '6', '--out', folder];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  t.regex(stdout, /\| violations \| 0 \|/);
});

test('rule 40.1: a session is granted if the server has them, at most for its time', async (t) => {
  const server = await startServer(t, { sessionTimeout: 5000 });
  const first = await raw(t, server, 'a', { timeout: 60_000 });
  const { session } = await first.next();
  t.is(session.timeout, 5000);
  t.regex(session.token, /^[\w-]{22}$/);
  const without = await startServer(t, {});
  t.is((await (await raw(t, without, 'a', { timeout: 60_000 })).next()).session, undefined);
  for (const wrong of [{}, { timeout: -1 }, 7, { timeout: 1, token: 'x'.repeat(2000) }]) {
    const refused = await (await raw(t, server, 'b', wrong)).next();
    t.deepEqual([refused.action, refused.code], ['error', 'ERR_WSMB_MEMBER']);
  }
});

test('rule 40.5: a session continues for its id, its principal and a known count only', async (t) => {
  const server = await startServer(t, {
    sessionTimeout: 5000,
    authenticate: ({ token }) => ({ principal: token, subscribe: ['>'] }),
  });
  const first = await raw(t, server, 'a', { timeout: 5000 }, 'ann');
  const { session } = await first.next();
  const { token } = session;
  first.send({ action: 'subscribe', topic: 'x', ref: 1 });
  t.is((await first.next()).action, 'subscribed');
  const tries = [
    ['b', 'ann', { token, count: 1 }],
    ['a', 'ann', { token: `${token}x`, count: 1 }],
  ];
  for (const [id, principal, more] of tries) {
    const other = await raw(t, server, id, { timeout: 5000, ...more }, principal);
    const answer = await other.next();
    t.is(answer.session.resumed, undefined);
    t.not(answer.session.token, token);
    if (id === 'a') return;
    other.socket.terminate();
  }
});

test('rule 40.4: another principal cannot continue a session', async (t) => {
  const server = await startServer(t, {
    sessionTimeout: 5000,
    authenticate: ({ token }) => ({ principal: token }),
  });
  const first = await raw(t, server, 'a', { timeout: 5000 }, 'ann');
  const { session } = await first.next();
  const other = await raw(t, server, 'a', { ...session, count: 0 }, 'bob');
  const [code] = await once(other.socket, 'close');
  t.is(code, 4409);
  first.send({ action: 'subscribe', topic: 'x', ref: 1 });
  const again = await raw(t, server, 'a', { ...session, count: 0 }, 'ann');
  t.like((await again.next()).session, { token: session.token, resumed: true });
});

test('rule 40.6: both sides confirm what they have received', async (t) => {
  const server = await startServer(t, { sessionTimeout: 5000, pingInterval: 50 });
  const client = await raw(t, server, 'a', { timeout: 5000 });
  await client.next();
  for (let n = 0; n < 300; n += 1) client.send({ action: 'send', message: n, dest: [] });
  const counts = [];
  while (counts.at(-1) !== 300) {
    const frame = await client.next();
    t.is(frame.action, 'received');
    counts.push(frame.count);
  }
  t.true(counts.length >= 1);
  client.send({ action: 'received', count: 'x' });
  t.is((await client.next()).code, 'ERR_WSMB_MEMBER');
});

test('rule 40.5: a session that is continued with a count beyond what was sent ends', async (t) => {
  const server = await startServer(t, { sessionTimeout: 5000 });
  const first = await raw(t, server, 'a', { timeout: 5000 });
  const { session } = await first.next();
  first.socket.terminate();
  const second = await raw(t, server, 'a', { ...session, count: 1e15 });
  await once(second.socket, 'close');
  while (server.stats().sessions > 0) await new Promise(setImmediate);
  const third = await raw(t, server, 'a', { ...session, count: 0 });
  t.is((await third.next()).session.resumed, undefined);
});

test('rule 40.3: a connection that does not respond to pings is suspended, and counted once', async (t) => {
  const server = await startServer(t, {
    sessionTimeout: 30_000,
    pingInterval: 20,
    pingTimeout: 1000,
  });
  const first = await raw(t, server, 'a', { timeout: 30_000 });
  const { session } = await first.next();
  const dead = once(server, 'disconnected');
  first.socket.pause();
  const [ended] = await dead;
  t.like(ended, { id: 'a', reason: 'dead' });
  t.deepEqual([server.stats().connections, server.stats().registered], [0, 1]);
  const second = await raw(t, server, 'a', { ...session, count: 0 });
  t.true((await second.next()).session.resumed);
  // The connection that brought the socket ends a moment later.
  while (server.stats().connections > 1) await new Promise(setImmediate);
  t.deepEqual([server.stats().connections, server.stats().registered], [1, 1]);
  t.deepEqual([server.stats().dead, server.stats().sessionsSuspended], [1, 0]);
  const gone = once(server, 'unregistered');
  second.socket.close(1000);
  await gone;
  while (server.stats().connections > 0) await new Promise(setImmediate);
  t.is(server.stats().sessions, 0);
});

test('rule 40.8: suspended sessions end when they are disconnected, and when the server drains or closes', async (t) => {
  const server = await startServer(t, { sessionTimeout: 30_000 });
  const suspend = async (id) => {
    const client = await raw(t, server, id, { timeout: 30_000 });
    await client.next();
    const lost = once(server, 'disconnected');
    client.socket.terminate();
    await lost;
  };
  await suspend('a');
  t.true(server.disconnect('a'));
  while (server.stats().sessions > 0) await new Promise(setImmediate);
  t.false(server.has('a'));
  await suspend('b');
  // Otherwise the drain would take its whole time.
  await server.close({ drain: 1e9 });
  t.pass();
});

test('rule 40.8: memory of suspended sessions is charged, and freed when they end', async (t) => {
  const server = await startServer(t, { sessionTimeout: 30_000, maxSessionBuffer: 1 << 20 });
  const sender = await raw(t, server, 'sender');
  await sender.next();
  const before = server.stats().memory;
  for (let n = 0; n < 10; n += 1) {
    const client = await raw(t, server, `c${n}`, { timeout: 30_000 });
    await client.next();
    const lost = once(server, 'disconnected');
    client.socket.terminate();
    await lost;
    const message = 'x'.repeat(500_000);
    sender.send({ action: 'send', message, dest: `c${n}`, ref: 1 });
    t.deepEqual((await sender.next()).delivered, [`c${n}`]);
  }
  t.true(server.stats().memory - before > 4_500_000);
  for (let n = 0; n < 10; n += 1) t.true(server.disconnect(`c${n}`));
  while (server.stats().memory > before + 100_000) await new Promise(setImmediate);
  t.deepEqual([server.stats().sessionsEnded, server.stats().sessions], [10, 0]);
});

test('a session continues over TLS', async (t) => {
  const trusted = authority();
  const world = await start(t, 'addon', {
    server: { tls: trusted.issue() },
    client: { tls: { ca: trusted.ca } },
    scheme: 'wss',
  });
  const { relay, client, peer } = world;
  const taken = take(client, 20);
  for (let n = 0; n < 10; n += 1) peer.send(n, 'client');
  await cut(world);
  for (let n = 10; n < 20; n += 1) peer.send(n, 'client');
  const resumed = once(client, 'resumed');
  relay.mend();
  await resumed;
  t.deepEqual(await taken, [...Array(20).keys()]);
});
