'use strict';

// Presence: members of topics, and ids that are online.

const { execFile } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');
const { WebSocket } = require('ws');
const Watches = require('../lib/client/watches');
const { startServer } = require('./support/start');
const { kinds, join, failure, urlOf } = require('./support/clients');

/** Resolves with the next change of a watch for which `condition` is true of the watch. */
async function until(watch, condition) {
  while (!condition(watch)) {
    await once(watch, 'change');
  }
}

const members = (watch) => watch.members && Object.fromEntries([...watch.members].sort());
const ids = (watch) => [...watch.members.keys()].sort();

for (const kind of kinds) {
  test(`${kind}: a watch knows the members of a topic, and emits their changes`, async (t) => {
    const server = await startServer(t);
    const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((id) => join(t, kind, server, id)));
    const room = await a.subscribe('room', { info: { name: 'Ann', '"': [1.5] } });
    await b.subscribe('room');
    const watch = await c.presence('room');
    t.deepEqual([watch.topic, watch.count], ['room', 1]);
    t.deepEqual(members(watch), { a: { name: 'Ann', '"': [1.5] } });
    const changes = watch[Symbol.asyncIterator]();
    await b.subscribe('room', { info: 'Bob' });
    t.deepEqual((await changes.next()).value, {
      count: 2,
      joined: new Map([['b', 'Bob']]),
      left: [],
    });
    await a.subscribe('room', { info: { name: 'Anna' } });
    t.deepEqual((await changes.next()).value.joined, new Map([['a', { name: 'Anna' }]]));
    // It is still a member by the other subscription.
    await room.unsubscribe();
    await b.close();
    t.deepEqual((await changes.next()).value, { count: 1, joined: new Map(), left: ['b'] });
    t.deepEqual(members(watch), { a: { name: 'Anna' } });
    await watch.close();
    t.deepEqual(await changes.next(), { value: undefined, done: true });
    t.is(server.stats().members, 1);
  });

  test(`${kind}: a client that ends its subscription with info is no member, though it still subscribes`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'c');
    const plain = await client.subscribe('room');
    const member = await client.subscribe('room', { info: 1 });
    const watch = await client.presence('room');
    t.is(watch.count, 1);
    const changed = once(watch, 'change');
    await member.unsubscribe();
    t.deepEqual((await changed)[0].left, ['c']);
    const message = once(plain, 'message');
    client.publish('still', 'room');
    t.is((await message)[0], 'still');
  });

  test(`${kind}: a watch of ids knows which are online`, async (t) => {
    const server = await startServer(t, { presenceTimeout: 0 });
    const [a, w] = await Promise.all(['a', 'w'].map((id) => join(t, kind, server, id)));
    const watch = await w.watch(['a', 'b', 'w', 'é"', 'a']);
    t.deepEqual([...watch.online].sort(), ['a', 'w']);
    const changes = watch[Symbol.asyncIterator]();
    const b = await join(t, kind, server, 'é"');
    t.deepEqual((await changes.next()).value, { online: ['é"'], offline: [] });
    a.unregister();
    t.deepEqual((await changes.next()).value, { online: [], offline: ['a'] });
    // Another watch of the same ids leaves this one as it is.
    const other = await w.watch('é"');
    t.deepEqual([...other.online], ['é"']);
    await other.close();
    await b.close();
    t.deepEqual((await changes.next()).value, { online: [], offline: ['é"'] });
    t.deepEqual([...watch.online], ['w']);
    await watch.close();
  });

  test(`${kind}: a lost connection that returns in time is not seen`, async (t) => {
    const server = await startServer(t, { presenceTimeout: 60_000 });
    const watcher = await join(t, kind, server, 'w');
    const client = await join(t, kind, server, 'c', { reconnect: { minDelay: 1, jitter: 0 } });
    await client.subscribe('room', { info: 'c' });
    const watch = await watcher.presence('room');
    const online = await watcher.watch(['c']);
    watch.on('change', (change) => t.fail(JSON.stringify(change)));
    online.on('change', (change) => t.fail(JSON.stringify(change)));
    for (let n = 0; n < 3; n += 1) {
      server.disconnect('c', 3000);
      await once(client, 'reconnected');
    }
    // The third subscription has arrived.
    await client.request('x', 'nobody').catch(() => {});
    t.deepEqual([members(watch), [...online.online]], [{ c: 'c' }, ['c']]);
    watch.removeAllListeners();
    online.removeAllListeners();
    const changed = once(watch, 'change');
    await client.close();
    t.deepEqual((await changed)[0].left, ['c']);
  });

  test(`${kind}: a watcher that reconnects gets the changes since then`, async (t) => {
    const server = await startServer(t);
    const watcher = await join(t, kind, server, 'w', { reconnect: { minDelay: 200, jitter: 0 } });
    const [a, b] = await Promise.all(['a', 'b'].map((id) => join(t, kind, server, id)));
    await a.subscribe('room', { info: 'a' });
    const watch = await watcher.presence('room');
    const online = await watcher.watch(['a', 'b', 'c']);
    const changes = watch[Symbol.asyncIterator]();
    const gone = once(server, 'disconnected');
    server.disconnect('w', 3000);
    await gone;
    await b.subscribe('room', { info: 'b' });
    await a.close();
    const c = await join(t, kind, server, 'c');
    const { joined, left } = (await changes.next()).value;
    t.deepEqual([[...joined], left], [[['b', 'b']], ['a']]);
    await until(online, ({ online: known }) => known.has('c') && !known.has('a'));
    t.deepEqual([...online.online], ['b', 'c']);
    await c.close();
  });

  test(`${kind}: watches and members are refused with a code`, async (t) => {
    const authenticate = ({ id }) =>
      id === 'free'
        ? { subscribe: '>', presence: ['room.*', 'of.{id}.>'], watch: 'a*' }
        : { subscribe: '>' };
    const server = await startServer(t, { authenticate, maxSubscriptions: 3 });
    const [free, none] = await Promise.all(['free', 'none'].map((id) => join(t, kind, server, id)));
    const code = async (promise) => (await failure(promise)).code;
    for (const [client, topic] of [
      [none, 'room.1'],
      [free, 'room'],
      [free, 'of.none.x'],
    ]) {
      t.is(await code(client.presence(topic)), 'ERR_WSMB_FORBIDDEN');
    }
    t.is(await code(none.watch(['a'])), 'ERR_WSMB_FORBIDDEN');
    t.is(await code(free.watch(['a', 'b'])), 'ERR_WSMB_FORBIDDEN');
    await free.presence('of.free.x');
    await free.watch(['a', 'ab']);
    t.is(await code(free.watch(['a', 'abc'])), 'ERR_WSMB_MAX_SUBSCRIPTIONS');
    t.is(await code(free.subscribe('x')), 'ERR_WSMB_MAX_SUBSCRIPTIONS');
    t.is(await code(none.subscribe('x', { info: 'x'.repeat(1025) })), 'ERR_WSMB_MAX_PRESENCE_INFO');
    for (const [topic, options] of [
      ['x.*', { info: 1 }],
      ['x', { info: 1, group: 'g' }],
    ]) {
      t.is(await code(none.subscribe(topic, options)), 'ERR_WSMB_OPTION');
    }
    t.is(await code(none.presence('x.*')), 'ERR_WSMB_TOPIC');
    for (const list of [[], [''], ['a', {}], undefined, 'a\ud800']) {
      t.is(await code(none.watch(list)), 'ERR_WSMB_DEST', JSON.stringify(list));
    }
  });

  test(`${kind}: a grant that no longer allows it ends a watch`, async (t) => {
    let presence = '>';
    const server = await startServer(t, {
      authenticate: () => ({ subscribe: '>', presence, watch: presence === '>' ? '*' : 'a' }),
    });
    const client = await join(t, kind, server, 'c');
    const kept = await client.presence('kept');
    const lost = await client.presence('lost');
    const keptIds = await client.watch(['a']);
    const lostIds = await client.watch(['a', 'b']);
    const ends = [lost, lostIds].map((watch) => once(watch, 'end'));
    presence = 'kept';
    client.register();
    for (const [error] of await Promise.all(ends)) {
      t.is(error.code, 'FORBIDDEN');
    }
    await client.subscribe('kept', { info: 1 });
    await until(kept, ({ count }) => count === 1);
    t.false(keptIds.online.has('a'));
    await join(t, kind, server, 'a');
    await until(keptIds, ({ online }) => online.has('a'));
  });
}

for (const kind of kinds) {
  test(`${kind}: the other ids of a watch that a grant ends are not watched any more`, async (t) => {
    let watch = '*';
    const authenticate = () => ({ watch });
    const server = await startServer(t, { authenticate, maxSubscriptions: 3 });
    const client = await join(t, kind, server, 'c');
    const lost = await client.watch(['a', 'b', 'x']);
    const end = once(lost, 'end');
    watch = ['a', 'd', 'e', 'f'];
    client.register();
    t.is((await end)[0].code, 'FORBIDDEN');
    const { online } = await client.watch(['d', 'e', 'f']);
    t.is(online.size, 0);
  });
}

test('a listener that throws, or ends other watches, leaves the others as they are', async (t) => {
  let number = 0;
  const session = {
    isRegistered: false,
    requests: { nextReference: () => (number += 1) },
    sendFrame() {},
  };
  const watches = new Watches(session);
  const promises = [1, 2, 3].map(() => watches.add('room'));
  watches.onPresence('room', 0, {});
  const [first, second, third] = await Promise.all(promises);
  first.on('change', () => {
    throw new Error('change');
  });
  const joined = () => watches.onPresence('room', 1, undefined, { a: 1 }, []);
  t.throws(joined, { message: 'change' });
  t.deepEqual(
    [first, second, third].map(({ count, members: { size } }) => [count, size]),
    [1, 1, 1].map((one) => [one, one]),
  );
  first.on('end', () => {
    third.close();
    throw new Error('end');
  });
  const ended = [];
  for (const watch of [second, third]) watch.on('end', (error) => ended.push(error));
  const reason = new Error('closed');
  t.throws(() => watches.end(reason), { message: 'end' });
  // The third was closed by the listener of the first.
  t.deepEqual(ended, [undefined, reason]);
});

test('a listener of a watch or a subscription that throws does not keep a client from its end', async (t) => {
  const server = await startServer(t);
  const script = `
    const WSMsgBroker = require(${JSON.stringify(path.join(__dirname, '..'))});
    const client = new WSMsgBroker('c', ${JSON.stringify(urlOf(server))}, { protocol: 2 });
    process.on('uncaughtException', ({ message }) => console.log(message));
    const fail = (message) => () => { throw new Error(message); };
    client.on('close', () => console.log('close'));
    client.connected().then(async () => {
      (await client.subscribe('a')).on('end', fail('subscription'));
      (await client.presence('a')).on('end', fail('watch'));
      client.close();
    });`;
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', script]);
  t.deepEqual(stdout.trim().split('\n').sort(), ['close', 'subscription', 'watch']);
});

test('above the limit watchers get the number of members only, and below it the names again', async (t) => {
  const server = await startServer(t, { maxPresenceNames: 8, presenceTimeout: 0 });
  const watcher = await join(t, 'addon', server, 'w');
  const watch = await watcher.presence('room');
  const clients = [];
  for (let n = 0; n < 10; n += 1) {
    const client = await join(t, 'addon', server, `c${n}`);
    await client.subscribe('room', { info: n });
    clients.push(client);
  }
  await until(watch, ({ count }) => count === 10);
  t.is(watch.members, undefined);
  await Promise.all(clients.splice(0, 3).map((client) => client.close()));
  // Names do not come and go with each member.
  await until(watch, ({ count }) => count === 7);
  t.is(watch.members, undefined);
  await clients.shift().close();
  await until(watch, ({ count }) => count === 6);
  t.deepEqual(ids(watch), ['c4', 'c5', 'c6', 'c7', 'c8', 'c9']);
});

test('many members that come and go in a moment are few frames', async (t) => {
  const server = await startServer(t);
  const watcher = await join(t, 'addon', server, 'w');
  const member = await join(t, 'addon', server, 'm');
  const watch = await watcher.presence('room');
  let frames = 0;
  watch.on('change', () => {
    frames += 1;
  });
  const begin = performance.now();
  for (let n = 0; n < 500; n += 1) {
    await member.subscribe('room', { info: n });
  }
  await until(watch, ({ members: known }) => known.get('m') === 499);
  const intervals = (performance.now() - begin) / 250;
  t.true(frames <= intervals + 2, `${frames} frames in ${intervals} intervals`);
});

test('the server watches, and is a member', async (t) => {
  const server = await startServer(t, { presenceTimeout: 0 });
  const client = await join(t, 'addon', server, 'c');
  await server.subscribe('room', { info: 'server' });
  const watch = await client.presence('room');
  t.deepEqual(Object.values(members(watch)), ['server']);
  const online = await server.watch(['c']);
  t.deepEqual([...online.online], ['c']);
  await client.close();
  await until(online, ({ online: known }) => known.size === 0);
  t.is((await server.presence('room')).count, 1);
});

test('a watcher that does not read gets the whole state once it does', async (t) => {
  const limits = { maxBackpressure: 1024, slowConsumer: 'drop', presenceTimeout: 0 };
  const server = await startServer(t, limits);
  const deaf = new WebSocket(urlOf(server));
  t.teardown(() => deaf.terminate());
  await once(deaf, 'open');
  const heard = [];
  deaf.on('message', (data) => heard.push(JSON.parse(data)));
  deaf.send('{"action":"register","id":"deaf","protocol":2}');
  deaf.send('{"action":"watch","topic":"room","ref":7}');
  while (heard.length < 3) await once(deaf, 'message');
  t.deepEqual(heard.slice(1), [
    { action: 'watched', ref: 7 },
    { action: 'presence', topic: 'room', count: 0, members: {} },
  ]);
  deaf.pause();
  const sender = await join(t, 'addon', server, 'sender');
  const text = 'x'.repeat(100_000);
  let receipt;
  do {
    receipt = await sender.deliver(text, 'deaf');
  } while (receipt.delivered.length > 0);
  const other = await (await join(t, 'addon', server, 'other')).presence('room');
  for (const id of ['a', 'b', 'a']) {
    await (await join(t, 'addon', server, id)).subscribe('room', { info: id });
  }
  await until(other, ({ count }) => count === 2);
  deaf.resume();
  const last = () => heard.findLast(({ action }) => action === 'presence');
  while (last().count !== 2) await once(deaf, 'message');
  t.deepEqual(last().members, { a: 'a', b: 'b' });
});
