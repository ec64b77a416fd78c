'use strict';

// Sessions (rule 40 of spec/protocol.md) when something else happens while the connection is lost.

const { once } = require('node:events');
const test = require('ava');
const { startServer } = require('./support/start');
const { kinds } = require('./support/clients');
const { start, cut, take, raw } = require('./support/sessions');

/** Lets the client of a world come back. */
async function resume({ relay, client }) {
  const resumed = once(client, 'resumed');
  relay.mend();
  await resumed;
}

for (const kind of kinds) {
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

test('40.8: a suspended session ends when its grant expires, and its connection is reported once', async (t) => {
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

test('40.9: a close frame ends the session although the broker cannot write any more', async (t) => {
  const server = await startServer(t, { sessionTimeout: 30_000 });
  const sender = await raw(t, server, 'sender');
  await sender.next();
  for (let n = 0; n < 30; n += 1) {
    const client = await raw(t, server, 'a', { timeout: 30_000 });
    await client.next();
    const end = once(server, 'disconnected');
    for (let m = 0; m < 200; m += 1) {
      sender.send({ action: 'send', message: 'x'.repeat(300), dest: 'a' });
    }
    await client.next();
    client.socket.close(1000);
    setImmediate(() => client.socket.terminate());
    const [{ reason }] = await end;
    t.is(reason, 'client');
  }
});
