'use strict';

// Topics: subscriptions, and messages and requests to their subscribers.

const { once } = require('node:events');
const test = require('ava');
const { startRelay } = require('./support/relay');
const { startServer, WSMsgBroker } = require('./support/start');
const { kinds, urlOf, open, join, failure, awaited } = require('./support/clients');

/** The next messages of an iterator. */
async function take(iterator, count) {
  const items = [];
  while (items.length < count) {
    items.push((await iterator.next()).value);
  }
  return items;
}

for (const kind of kinds) {
  test(`${kind}: a subscription iterates over the messages of matching topics`, async (t) => {
    const server = await startServer(t);
    const [sender, client] = await Promise.all(['s', 'c'].map((id) => join(t, kind, server, id)));
    const rooms = await client.subscribe('room.*');
    t.is(rooms.topic, 'room.*');
    const messages = rooms.messages();
    t.true(sender.publish({ n: 1 }, 'room.7'));
    sender.publish(2, 'room');
    sender.publish(3, 'room.7.x');
    sender.send(4, { topic: 'room.é"' });
    const [first, second] = await take(messages, 2);
    t.deepEqual(
      { ...first, response: null, answer: undefined },
      { message: { n: 1 }, from: 's', topic: 'room.7', response: null, answer: undefined },
    );
    t.is(first.response, null);
    t.like(second, { message: 4, topic: 'room.é"' });
  });

  test(`${kind}: each matching subscription of a client gets a message once`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'c');
    const log = [];
    client.on('message', (message) => log.push(['client', message]));
    for (const topic of ['a.b', 'a.*', '>', 'x']) {
      const subscription = await client.subscribe(topic);
      subscription.on('message', (message, response, from, to) => {
        log.push([topic, message, response, from, to]);
      });
    }
    t.deepEqual(await client.deliver(1, { topic: 'a.b' }), { queued: 1, dropped: 0 });
    await client.request('last', 'nobody').catch(() => {});
    t.deepEqual(
      log,
      ['a.b', 'a.*', '>'].map((topic) => [topic, 1, null, 'c', 'a.b']),
    );
  });

  test(`${kind}: requests to a topic get the first answer, or all`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    for (const id of ['a', 'b', 'c']) {
      const client = await join(t, kind, server, id);
      const subscription = await client.subscribe('jobs.>');
      subscription.handle((n, { from, topic, signal }) => {
        t.true(signal instanceof AbortSignal);
        if (id === 'c') throw Object.assign(new Error('not me'), { code: 'NOT_ME' });
        return [id, n, from, topic];
      });
    }
    const one = await asker.request(1, { topic: 'jobs.x' });
    t.deepEqual(one.message, [one.from, 1, 'asker', 'jobs.x']);
    const { answers, failed } = await asker.requestAll(2, { topic: 'jobs.x' });
    t.deepEqual(
      new Map([...answers].sort()),
      new Map(['a', 'b'].map((id) => [id, [id, 2, 'asker', 'jobs.x']])),
    );
    t.deepEqual(
      [...failed].map(([id, { code }]) => [id, code]),
      [['c', 'NOT_ME']],
    );
    const some = await asker.requestAll(3, { topic: 'jobs.y' }, { count: 1 });
    t.is(some.answers.size, 1);
    t.is(awaited(asker), 0);
  });

  test(`${kind}: a request fails with its subscribers, and at once without one`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const none = await failure(asker.request(1, { topic: 'none' }));
    t.is(none.code, 'NO_SUBSCRIBER');
    t.is(none.message, 'topic "none": no subscriber');
    t.is(server.stats().withoutSubscriber, 1);
    const { answers, failed } = await asker.requestAll(1, { topic: 'none' });
    t.is(answers.size, 0);
    t.deepEqual(
      [...failed].map(([topic, { code }]) => [topic, code]),
      [['none', 'NO_SUBSCRIBER']],
    );
    t.deepEqual(await asker.deliver(1, { topic: 'none' }), { queued: 0, dropped: 0 });

    const leaving = await join(t, kind, server, 'leaving');
    const subscription = await leaving.subscribe('t');
    subscription.on('message', () => leaving.close());
    t.is((await failure(asker.request(1, { topic: 't' }))).code, 'GONE');
    t.is(awaited(asker), 0);
    t.is(server.stats().pending, 0);
  });

  test(`${kind}: a handler of the client does not answer requests to topics`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const client = await join(t, kind, server, 'c');
    client.handle(() => t.fail('for its id only'));
    const subscription = await client.subscribe('t');
    // As with an id without a handler: the program may answer later, so that the broker and the client refuse nothing.
    const silent = asker.request(1, { topic: 't' }, { timeout: 50 });
    t.is((await failure(silent)).code, 'TIMEOUT');
    const alone = await join(t, kind, server, 'alone');
    t.is((await failure(asker.request(1, 'alone', { timeout: 50 }))).code, 'TIMEOUT');
    // Another subscriber answers for all.
    (await alone.subscribe('t')).handle(() => 'alone');
    t.is((await asker.request(2, { topic: 't' })).message, 'alone');
    subscription.handle(() => 'c');
    const { answers } = await asker.requestAll(3, { topic: 't' });
    t.deepEqual(new Map([...answers].sort()), new Map(Object.entries({ alone: 'alone', c: 'c' })));
  });

  test(`${kind}: waitFor waits for the first subscriber`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const asked = asker.request(1, { topic: 't' }, { waitFor: 30_000 });
    const late = await join(t, kind, server, 'late');
    (await late.subscribe('t')).handle((n) => n + 1);
    t.deepEqual(await asked, { from: 'late', message: 2 });
  });

  test(`${kind}: unsubscribe ends iterators, and other subscriptions stay`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'c');
    const [first, second] = [await client.subscribe('t'), await client.subscribe('t')];
    t.is(server.stats().subscriptions, 1);
    const iterator = first.messages();
    const ended = once(first, 'end');
    const over = iterator.next();
    await first.unsubscribe();
    t.deepEqual(await ended, [undefined]);
    t.true((await over).done);
    await first.unsubscribe();
    // One that has ended has no messages.
    t.true((await first.messages().next()).done);
    t.throws(() => first.handle(() => {}), { code: 'ERR_WSMB_NOT_OPEN' });
    const rest = second.messages();
    t.deepEqual(await client.deliver(1, { topic: 't' }), { queued: 1, dropped: 0 });
    t.is((await rest.next()).value.message, 1);
    await second[Symbol.asyncDispose ?? 'asyncDispose']?.();
    await second.unsubscribe();
    t.is(server.stats().subscriptions, 0);
    t.deepEqual(await client.deliver(1, { topic: 't' }), { queued: 0, dropped: 0 });
  });

  test(`${kind}: a client subscribes again after it has reconnected`, async (t) => {
    const server = await startServer(t);
    const sender = await join(t, kind, server, 's');
    const client = await join(t, kind, server, 'c', { reconnect: { minDelay: 1, maxDelay: 1 } });
    const subscription = await client.subscribe('t', { slow: 'latest' });
    const gone = await client.subscribe('gone');
    await gone.unsubscribe();
    const messages = subscription.messages();
    const back = once(client, 'reconnected');
    t.true(server.disconnect('c', 3000, 'again'));
    await back;
    // The frame of the new subscription is behind the registration.
    await client.request(1, 'nobody').catch(() => {});
    t.is(server.stats().subscriptions, 1);
    sender.publish('after', 't');
    t.is((await messages.next()).value.message, 'after');
  });

  test(`${kind}: a connection that is lost ends what the program is ending`, async (t) => {
    const server = await startServer(t);
    const relay = await startRelay(t, server);
    const url = `ws://127.0.0.1:${relay.address().port}/`;
    const options = { reconnect: { minDelay: 1, maxDelay: 1 } };
    const client = await open(t, kind, 'c', url, options).connected();
    await client.subscribe('stays');
    const subscription = await client.subscribe('t', { info: 1 });
    const watches = [await client.presence('t'), await client.watch(['c'])];
    const back = once(client, 'reconnected');
    const ends = [subscription.unsubscribe(), ...watches.map((watch) => watch.close())];
    relay.cut();
    relay.mend();
    await Promise.all([back, ...ends]);
    await client.request(1, 'nobody').catch(() => {});
    t.is(server.stats().subscriptions, 1);
  });

  test(`${kind}: a renewed registration does not begin again what the program is ending`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'c');
    const subscription = await client.subscribe('t');
    const watches = [await client.presence('t'), await client.watch(['c'])];
    client.register();
    await Promise.all([subscription.unsubscribe(), ...watches.map((watch) => watch.close())]);
    await client.request(1, 'nobody').catch(() => {});
    t.is(server.stats().subscriptions, 0);
  });

  test(`${kind}: a subscription may be made before the client is connected`, async (t) => {
    const server = await startServer(t);
    const client = open(t, kind, 'c', urlOf(server));
    const subscription = await client.subscribe('t');
    t.is(client.state, 'registered');
    const messages = subscription.messages();
    client.publish(1, 't');
    t.is((await messages.next()).value.message, 1);
    await client.close();
    t.true((await messages.next()).done);
    t.is((await failure(client.subscribe('v'))).code, 'ERR_WSMB_NOT_OPEN');
    const never = open(t, kind, 'never', urlOf(server));
    const closed = never.subscribe('u');
    never.close();
    t.is((await failure(closed)).code, 'ERR_WSMB_CLOSED');
  });

  test(`${kind}: arguments are checked at the call`, async (t) => {
    const server = await startServer(t, { maxSubscriptions: 1 });
    const client = await join(t, kind, server, 'c');
    const bad = ['', '.', 'a.', 'a..b', 'a b', '$a', 'a\n', '\ud800', 5, null, undefined, {}];
    for (const topic of [...bad, 'a.*', '>', Array(17).fill('a').join('.')]) {
      t.throws(() => client.publish(1, topic), { code: 'ERR_WSMB_TOPIC', instanceOf: TypeError });
      if (topic !== undefined) {
        t.throws(() => client.send(1, { topic }), { code: 'ERR_WSMB_TOPIC' });
      }
      t.is((await failure(client.request(1, { topic: topic ?? '' }))).code, 'ERR_WSMB_TOPIC');
    }
    for (const topic of [...bad, 'a*', '>.a', 'a.>.b']) {
      t.is((await failure(client.subscribe(topic))).code, 'ERR_WSMB_TOPIC', String(topic));
    }
    t.is((await failure(client.subscribe('a'.repeat(256)))).code, 'ERR_WSMB_TOPIC');
    t.is((await failure(client.subscribe('a', { slow: 'x' }))).code, 'ERR_WSMB_OPTION');
    t.is((await failure(client.subscribe('a', { fast: 1 }))).code, 'ERR_WSMB_OPTION');
    t.is((await failure(client.subscribe('a', () => {}))).code, 'ERR_WSMB_OPTION');
    await (await client.subscribe('a', null)).unsubscribe();
    t.is((await failure(client.subscribe('a', { slow: 'wait' }))).code, 'ERR_WSMB_FORBIDDEN');
    await client.subscribe('a');
    const more = await failure(client.subscribe('b'));
    t.is(more.code, 'ERR_WSMB_MAX_SUBSCRIPTIONS');
    t.regex(more.message, /maxSubscriptions/);
  });

  test(`${kind}: a grant decides about topics, and its end ends subscriptions`, async (t) => {
    const grants = [
      { publish: 'room.*', subscribe: ['room.*', 'to.{id}'] },
      { publish: [], subscribe: ['to.{id}'] },
    ];
    const server = await startServer(t, { authenticate: () => grants.shift() });
    server.on('error', () => {});
    const client = await join(t, kind, server, 'c');
    const rooms = await client.subscribe('room.7');
    await client.subscribe('to.c');
    for (const topic of ['room.>', '>', 'to.d', 'to.*']) {
      t.is((await failure(client.subscribe(topic))).code, 'ERR_WSMB_FORBIDDEN');
    }
    t.deepEqual(await client.deliver(1, { topic: 'room.7' }), { queued: 1, dropped: 0 });
    t.is((await failure(client.deliver(1, { topic: 'to.c' }))).code, 'ERR_WSMB_FORBIDDEN');
    const ended = once(rooms, 'end');
    client.register();
    const [error] = await ended;
    t.is(error.code, 'FORBIDDEN');
    t.regex(error.message, /room\.7/);
    t.is(server.stats().subscriptions, 1);
    t.is((await failure(client.deliver(1, { topic: 'room.7' }))).code, 'ERR_WSMB_FORBIDDEN');
  });

  test(`${kind}: a client of version 1 has no subscriptions`, async (t) => {
    const { WebSocketServer } = require('ws');
    const old = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    t.teardown(() => old.close());
    await once(old, 'listening');
    old.on('connection', (socket) => {
      socket.on('message', () => socket.send('{"action":"registered","id":"c"}'));
    });
    const client = open(t, kind, 'c', `ws://127.0.0.1:${old.address().port}/`);
    t.is((await failure(client.subscribe('t'))).code, 'ERR_WSMB_NOT_NEGOTIATED');
  });
}

test('a client that has lost its id cannot subscribe', async (t) => {
  const server = await startServer(t);
  const client = await join(t, 'addon', server, 'c');
  const replaced = once(client, 'replaced');
  await join(t, 'addon', server, 'c');
  await replaced;
  t.is((await failure(client.subscribe('t'))).code, 'ERR_WSMB_NOT_REGISTERED');
});

test('a handler may subscribe, publish and unsubscribe', async (t) => {
  const server = await startServer(t);
  const client = await join(t, 'addon', server, 'c');
  const first = await client.subscribe('first');
  const done = new Promise((resolve) => {
    first.on('message', async () => {
      const second = await client.subscribe('second');
      second.once('message', (message) => resolve(message));
      await first.unsubscribe();
      client.publish('done', 'second');
    });
  });
  client.publish(1, 'first');
  t.is(await done, 'done');
});

test('a program that does not read its stream reads no further from the socket', async (t) => {
  const server = await startServer(t, { maxBackpressure: 1 << 16 });
  const sender = await join(t, 'addon', server, 's');
  const client = await join(t, 'addon', server, 'c');
  const subscription = await client.subscribe('t');
  const gaps = [];
  subscription.on('gap', (gap) => gaps.push(gap));
  const messages = subscription.messages({ highWaterMark: 8 });
  let sent = 0;
  let dropped = 0;
  while (dropped === 0) {
    sent += 1;
    ({ dropped } = await sender.deliver({ n: sent, text: 'x'.repeat(1 << 16) }, { topic: 't' }));
  }
  sender.publish({ last: true }, 't');
  let received = 0;
  let expected = 1;
  for await (const { message } of messages) {
    if (message.n !== undefined) {
      t.is(message.n, expected);
      expected += 1;
      received += 1;
    }
    if (received === sent - 1) break;
  }
  while (gaps.length === 0) await once(subscription, 'gap');
  t.is(gaps[0].topic, 't');
  t.true(gaps[0].lost >= 1 && gaps[0].lost <= 2);
});

test('the server publishes and subscribes as its own client', async (t) => {
  const server = await startServer(t, {
    authenticate: () => ({ subscribe: '>' }),
  });
  const client = await join(t, 'addon', server, 'c');
  const own = await server.subscribe('from.>', { slow: 'wait' });
  const messages = (await client.subscribe('news')).messages();
  t.deepEqual(await server.deliver(1, { topic: 'news' }), { queued: 1, dropped: 0 });
  t.true(server.publish(2, 'news'));
  t.deepEqual(
    (await take(messages, 2)).map(({ message, from }) => [message, from]),
    [1, 2].map((n) => [n, server.client.id]),
  );
  await own.unsubscribe();
});

test('a token has claims for topics', async (t) => {
  const { createHmac } = require('node:crypto');
  const secret = 'a secret of more than 32 bytes, for HS256';
  const sign = (claims) => {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const text = `${part({ alg: 'HS256' })}.${part({ sub: 'c', exp: 4e9, ...claims })}`;
    return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
  };
  const server = await startServer(t, { jwt: { secret } });
  server.on('error', () => {});
  const token = sign({ publish: ['a.*'], subscribe: 'a.{id}' });
  const client = await join(t, 'addon', server, 'c', { token });
  await client.subscribe('a.c');
  t.deepEqual(await client.deliver(1, { topic: 'a.c' }), { queued: 1, dropped: 0 });
  t.is((await failure(client.subscribe('a.d'))).code, 'ERR_WSMB_FORBIDDEN');
  t.is((await failure(client.deliver(1, { topic: 'b' }))).code, 'ERR_WSMB_FORBIDDEN');
  const wrong = new WSMsgBroker('c', urlOf(server), { token: sign({ publish: ['a..b'] }) });
  wrong.on('error', () => {});
  t.is((await failure(wrong.connected())).code, 'ERR_WSMB_UNAUTHORIZED');
});
