'use strict';

// Subscriptions of clients that the server's program makes, and the ids that get messages to a topic.

const { once } = require('node:events');
const test = require('ava');
const { startServer, startClient } = require('./support/start');
const { kinds, join, open, urlOf, failure } = require('./support/clients');

const topics = (client) => {
  const found = [];
  client.on('subscribed', (subscription) => found.push(subscription.topic));
  return found;
};

/** Resolves when the broker has handled all frames of the client. */
const settle = (client) => client.request(0, 'nobody').catch(() => {});

for (const kind of kinds) {
  test(`${kind}: the server subscribes a client, which gets the messages from then on`, async (t) => {
    const server = await startServer(t);
    const [sender, client] = await Promise.all(['s', 'c'].map((id) => join(t, kind, server, id)));
    const log = [];
    client.on('message', (message) => log.push(['client', message]));
    client.on('subscribed', (subscription) => {
      log.push(['subscribed', subscription.topic, subscription.group]);
      subscription.on('message', (message, response, from, topic) => {
        log.push([subscription.topic, message, from, topic]);
        response?.send('yes');
      });
      subscription.on('end', ({ code }) => log.push(['end', code]));
    });
    t.is(await server.addSubscriber('room.*', 'c'), undefined);
    // It has the subscription already.
    await server.addSubscriber('room.*', 'c');
    t.deepEqual(server.subscribers('room.7'), ['c']);
    t.deepEqual(await sender.deliver(1, { topic: 'room.7' }), { queued: 1, dropped: 0 });
    t.deepEqual(await sender.request(2, { topic: 'room.8' }), { from: 'c', message: 'yes' });
    t.true(await server.removeSubscriber('room.*', 'c'));
    t.false(await server.removeSubscriber('room.*', 'c'));
    t.deepEqual(server.subscribers('room.7'), []);
    t.deepEqual(await sender.deliver(3, { topic: 'room.7' }), { queued: 0, dropped: 0 });
    await settle(client);
    t.deepEqual(log, [
      ['subscribed', 'room.*', undefined],
      ['room.*', 1, 's', 'room.7'],
      ['room.*', 2, 's', 'room.8'],
      ['end', 'REMOVED'],
    ]);
    t.is(server.stats().subscriptions, 0);
  });

  test(`${kind}: a client without a listener of subscribed gets the messages itself`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'c');
    const arrived = once(client, 'message');
    await server.addSubscriber('t', 'c');
    server.publish('hello', 't');
    t.deepEqual(await arrived, ['hello', null, 'server', 't']);
  });

  test(`${kind}: a subscription by the server ends with the registration, and can be made again`, async (t) => {
    const server = await startServer(t);
    server.on('registered', (id) => id === 'c' && server.addSubscriber('t', 'c'));
    const reconnect = { minDelay: 1, maxDelay: 1 };
    const client = open(t, kind, 'c', urlOf(server), { reconnect });
    const log = [];
    const next = () =>
      new Promise((resolve) => {
        client.once('subscribed', (subscription) => {
          log.push('subscribed');
          subscription.on('end', (error) => log.push(error?.code));
          resolve(subscription);
        });
      });
    const first = await next();
    const again = next();
    server.disconnect('c');
    const second = await again;
    t.not(first, second);
    const messages = second.messages();
    await server.deliver(1, { topic: 't' });
    t.is((await messages.next()).value.message, 1);
    t.is(server.stats().subscriptions, 1);
    client.unregister();
    t.true((await messages.next()).done);
    t.deepEqual(log, [
      'subscribed',
      'ERR_WSMB_CONNECTION_LOST',
      'subscribed',
      'ERR_WSMB_NOT_REGISTERED',
    ]);
    t.is(server.stats().subscriptions, 0);
    const third = next();
    client.register();
    await (await third).unsubscribe();
    t.is(server.stats().subscriptions, 0);
    t.deepEqual(log.slice(4), ['subscribed', undefined]);
  });

  test(`${kind}: subscriptions of client and server to one topic share it`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'c');
    const own = await client.subscribe('t', { slow: 'latest' });
    const given = topics(client);
    await server.addSubscriber('t', 'c');
    t.is(server.stats().subscriptions, 1);
    await own.unsubscribe();
    t.is(server.stats().subscriptions, 0);
    t.deepEqual(given, []);

    const arrived = once(client, 'subscribed');
    await server.addSubscriber('u', 'c');
    const [first] = await arrived;
    const second = await client.subscribe('u');
    await second.unsubscribe();
    t.deepEqual(server.subscribers('u'), ['c']);
    // `removeSubscriber` ends all.
    const third = await client.subscribe('u');
    const ends = Promise.all([first, third].map((one) => once(one, 'end')));
    t.true(await server.removeSubscriber('u', 'c'));
    t.deepEqual(
      (await ends).map(([{ code }]) => code),
      ['REMOVED', 'REMOVED'],
    );
  });

  test(`${kind}: removeSubscriber ends the presence of the client, too`, async (t) => {
    const server = await startServer(t);
    const [client, other] = await Promise.all(['c', 'o'].map((id) => join(t, kind, server, id)));
    const watch = await other.presence('room');
    await server.addSubscriber('room', 'c');
    t.is(watch.members.size, 0);
    await client.subscribe('room', { info: 'here' });
    while (watch.members.size === 0) await new Promise(setImmediate);
    t.deepEqual([...watch.members], [['c', 'here']]);
    await server.removeSubscriber('room', 'c');
    while (watch.members.size > 0) await new Promise(setImmediate);
    t.deepEqual(server.subscribers('room'), []);
  });

  test(`${kind}: a subscription by the server needs no grant, and outlives a renewal`, async (t) => {
    let grant = { subscribe: ['own', 'own.>'] };
    const server = await startServer(t, { authenticate: () => grant });
    const client = await join(t, kind, server, 'c');
    const given = topics(client);
    const own = await client.subscribe('own');
    const code = async (...args) => (await failure(client.subscribe(...args))).code;
    t.is(await code('room'), 'ERR_WSMB_FORBIDDEN');
    for (const topic of ['room', 'room.*', 'own']) await server.addSubscriber(topic, 'c');
    // It may subscribe to the pattern that the server has chosen, and to nothing else.
    await client.subscribe('room');
    t.is(await code('room', { group: 'g' }), 'ERR_WSMB_FORBIDDEN');
    t.is(await code('room.7'), 'ERR_WSMB_FORBIDDEN');
    await client.subscribe('own.a');
    grant = {};
    const renewed = once(client, 'registered');
    client.register();
    await renewed;
    await settle(client);
    t.false(own.isEnded);
    t.deepEqual(server.subscribers('room'), ['c']);
    t.deepEqual(server.subscribers('room.7'), ['c']);
    t.deepEqual(server.subscribers('own'), ['c']);
    t.deepEqual(server.subscribers('own.a'), []);
    t.deepEqual(given, ['room', 'room.*']);
  });
}

test('subscribers are the ids of matching subscriptions, each once and sorted', async (t) => {
  const server = await startServer(t);
  const join2 = (id) => join(t, 'addon', server, id);
  const [b, a, w] = [await join2('b'), await join2('a'), await join2('w')];
  await Promise.all([a.subscribe('x.y'), a.subscribe('x.*'), b.subscribe('>'), b.subscribe('z')]);
  await w.subscribe('x.*', { group: 'g' });
  await server.subscribe('x.y');
  t.deepEqual(server.subscribers('x.y'), ['a', 'b', 'server', 'w']);
  t.deepEqual(server.subscribers('other'), ['b']);
  await a.close();
  t.deepEqual(server.subscribers('x.y'), ['b', 'server', 'w']);
  t.throws(() => server.subscribers('x.*'), { code: 'ERR_WSMB_TOPIC', instanceOf: TypeError });
});

test('addSubscriber names what is wrong', async (t) => {
  const server = await startServer(t, { maxSubscriptions: 1 });
  await join(t, 'addon', server, 'new');
  await startClient(t, server, 'old', { protocol: 1 });
  const code = async (...args) => (await failure(server.addSubscriber(...args))).code;
  t.is(await code('a..b', 'new'), 'ERR_WSMB_TOPIC');
  t.is(await code('a', 7), 'ERR_WSMB_OPTION');
  const unknown = await failure(server.addSubscriber('a', 'nobody'));
  t.deepEqual([unknown.code, unknown.message], ['UNKNOWN_ID', '"nobody": id not registered']);
  t.is((await failure(server.removeSubscriber('a', 'nobody'))).code, 'UNKNOWN_ID');
  t.is(await code('a', 'old'), 'ERR_WSMB_NOT_NEGOTIATED');
  await server.addSubscriber('a', 'new');
  await server.addSubscriber('a', 'new');
  t.is(await code('b', 'new'), 'ERR_WSMB_MAX_SUBSCRIPTIONS');
  // The server's own client is one like any other.
  await server.client.connected();
  const arrived = once(server.client, 'subscribed');
  await server.addSubscriber('own', 'server');
  t.is((await arrived)[0].topic, 'own');
  await server.close();
  t.is(await code('a', 'new'), 'ERR_WSMB_NOT_OPEN');
  t.deepEqual(server.subscribers('a'), []);
});
