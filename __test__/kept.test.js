'use strict';

// Kept topics: history, positions, and recovery after a lost connection.

const { once } = require('node:events');
const test = require('ava');
const { startRelay } = require('./support/relay');
const { startServer } = require('./support/start');
const { kinds, urlOf, open, join, failure } = require('./support/clients');

const keep = [{ topic: 'room.>', messages: 100 }];

/** Publishes these messages, each after the one before is kept. Returns the last receipt. */
async function publish(client, topic, ...messages) {
  let receipt;
  for (const message of messages) {
    receipt = await client.deliver(message, { topic });
  }
  return receipt;
}

/** The first messages of a subscription, with their offsets. */
async function take(subscription, count) {
  const taken = [];
  for await (const { message, offset } of subscription) {
    taken.push([message, offset]);
    if (taken.length === count) return taken;
  }
}

for (const kind of kinds) {
  test(`${kind}: a subscription begins with the last messages, at a position, or here`, async (t) => {
    const server = await startServer(t, { keep });
    const [sender, client] = await Promise.all(['s', 'c'].map((id) => join(t, kind, server, id)));
    const receipt = await publish(sender, 'room.7', 'a', 'b', 'c');
    t.deepEqual(receipt, { queued: 0, dropped: 0, offset: 3, stored: 'memory' });
    const last = await client.subscribe('room.7', { since: { last: 2 } });
    t.deepEqual(await take(last, 2), [
      ['b', 2],
      ['c', 3],
    ]);
    const { position } = last;
    t.like(position, { offset: 3 });
    await last.unsubscribe();
    await publish(sender, 'room.8', 'd');
    const here = await client.subscribe('room.*', { since: 'here' });
    t.deepEqual(here.position, { offset: 4, epoch: position.epoch });
    const next = take(here, 1);
    await publish(sender, 'room.7', 'e');
    t.deepEqual(await next, [['e', 5]]);
    await here.unsubscribe();
    const again = await client.subscribe('room.*', { since: position });
    const recovered = once(again, 'recovered');
    t.deepEqual(await take(again, 2), [
      ['d', 4],
      ['e', 5],
    ]);
    t.deepEqual(await recovered, [{ recovered: true, lost: 0 }]);
    await again.unsubscribe();
    const other = await client.subscribe('room.7', { since: { offset: 3, epoch: 'other' } });
    const lost = once(other, 'recovered');
    t.deepEqual((await take(other, 4)).at(-1), ['e', 5]);
    t.deepEqual(await lost, [{ recovered: false, lost: null }]);
    t.is(server.stats().kept, 5);
  });

  test(`${kind}: after a lost connection a subscription gets what it has missed`, async (t) => {
    const server = await startServer(t, { keep });
    const relay = await startRelay(t, server);
    const sender = await join(t, kind, server, 's');
    const reconnect = { minDelay: 20, maxDelay: 20, jitter: 0 };
    const client = await open(t, kind, 'c', urlOf(relay), { reconnect }).connected();
    const recovering = await client.subscribe('room.7', { since: 'here' });
    const plain = await client.subscribe('room.8');
    const log = [];
    for (const room of [recovering, plain]) {
      room.on('message', (message, _response, _from, topic, offset) => {
        log.push([message, topic, offset]);
      });
      room.on('recovered', (event) => log.push(event));
    }
    const first = once(recovering, 'message');
    await publish(sender, 'room.7', 1);
    await first;
    const lost = once(client, 'reconnecting');
    relay.cut();
    await lost;
    await publish(sender, 'room.7', 2, 3);
    await publish(sender, 'room.8', 4);
    relay.mend();
    await once(client, 'reconnected');
    await client.deliver(5, { topic: 'room.7' });
    await client.deliver(6, { topic: 'room.8' });
    t.deepEqual(log, [
      [1, 'room.7', 1],
      { recovered: true, lost: 0 },
      [2, 'room.7', 2],
      [3, 'room.7', 3],
      [5, 'room.7', 5],
      [6, 'room.8', 6],
    ]);
    t.is(recovering.position.offset, 5);
  });

  test(`${kind}: overlapping subscriptions get each message once, in order`, async (t) => {
    const server = await startServer(t, { keep });
    const [sender, client] = await Promise.all(['s', 'c'].map((id) => join(t, kind, server, id)));
    await publish(sender, 'room.7', 1, 2);
    await publish(sender, 'room.8', 3);
    const one = await client.subscribe('room.7', { since: { last: 9 } });
    t.deepEqual(await take(one, 2), [
      [1, 1],
      [2, 2],
    ]);
    const log = [];
    one.on('message', (message) => log.push(['one', message]));
    const all = await client.subscribe('room.*', { since: { last: 9 } });
    all.on('message', (message) => log.push(['all', message]));
    const same = await client.subscribe('room.7', { since: { last: 1 } });
    same.on('message', (message) => log.push(['same', message]));
    await publish(sender, 'room.7', 4);
    await client.deliver(5, { topic: 'room.8' });
    const of = (name) => log.filter(([each]) => each === name).map(([, message]) => message);
    t.deepEqual(of('one'), [4]);
    t.deepEqual(of('all'), [1, 2, 3, 4, 5]);
    t.deepEqual(of('same'), [2, 4]);
  });

  test(`${kind}: history is read in pages, or message by message`, async (t) => {
    const server = await startServer(t, { keep });
    const client = await join(t, kind, server, 'c');
    await publish(client, 'room.7', 1, 2, 3, 4, 5);
    const page = await client.history('room.7', { limit: 2 });
    t.like(page, { more: true, next: 4 });
    t.deepEqual(page.messages, [
      { message: 4, from: 'c', topic: 'room.7', offset: 4 },
      { message: 5, from: 'c', topic: 'room.7', offset: 5 },
    ]);
    const before = await client.history('room.7', { before: page.next, limit: 9 });
    t.deepEqual(
      before.messages.map(({ message }) => message),
      [1, 2, 3],
    );
    t.false(before.more);
    const read = async (options) => {
      const messages = [];
      for await (const { message } of client.history('room.*', options)) messages.push(message);
      return messages;
    };
    t.deepEqual(await read({ limit: 2 }), [5, 4, 3, 2, 1]);
    t.deepEqual(await read({ after: 0, limit: 2 }), [1, 2, 3, 4, 5]);
    t.deepEqual(await read({ after: 3 }), [4, 5]);
    t.is((await failure(client.history('other'))).code, 'ERR_WSMB_NOT_KEPT');
    t.is((await failure(client.subscribe('other', { since: 'here' }))).code, 'ERR_WSMB_NOT_KEPT');
    t.throws(() => client.history('a..b'), { code: 'ERR_WSMB_TOPIC' });
    t.throws(() => client.history('a', { last: 1 }), { code: 'ERR_WSMB_OPTION' });
    for (const since of [1, 'there', {}, { last: -1 }, { offset: 1 }, { epoch: 'a' }, null]) {
      t.is((await failure(client.subscribe('room.7', { since }))).code, 'ERR_WSMB_OPTION');
    }
    const options = { group: 'g', since: 'here' };
    t.is((await failure(client.subscribe('room.7', options))).code, 'ERR_WSMB_OPTION');
  });

  test(`${kind}: a pending history fails with the connection`, async (t) => {
    const server = await startServer(t, { keep });
    const relay = await startRelay(t, server);
    const client = await open(t, kind, 'c', urlOf(relay), { reconnect: false }).connected();
    relay.cut();
    const { code } = await failure(client.history('room.7'));
    t.regex(code, /^ERR_WSMB_(CONNECTION_LOST|NOT_OPEN)$/);
  });
}

test('invalid rules are refused', async (t) => {
  for (const [rules, name] of [
    [{ topic: 'a' }, 'keep'],
    [['a'], 'keep'],
    [[{}], 'keep[0].topic'],
    [[{ topic: 'a' }, { topic: 1 }], 'keep[1].topic'],
    [[{ topic: 'a', message: 1 }], 'keep[0].message'],
    [[{ topic: 'a', messages: '1' }], 'keep[0].messages'],
    [[{ topic: 'a', age: -1 }], 'keep[0].age'],
    [[{ topic: '$sys' }], 'keep.topic'],
    [[{ topic: 'a.*' }, { topic: 'a.b' }], 'keep.topic'],
    [[{ topic: 'a', messages: 0 }], 'keep.messages'],
    [Array.from({ length: 65 }, (_, n) => ({ topic: `a${n}` })), 'keep'],
  ]) {
    const error = await failure(startServer(t, { keep: rules }));
    t.is(error.code, 'ERR_WSMB_OPTION');
    t.true(error.message.includes(`"${name}"`), error.message);
  }
  const { code } = await failure(startServer(t, { keep, nats: { servers: 'localhost:1' } }));
  t.is(code, 'ERR_WSMB_OPTION');
});
