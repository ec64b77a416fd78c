'use strict';

// The asynchronous iterator of a client's messages.

const { once } = require('node:events');
const test = require('ava');
const { startServer } = require('./support/start');
const { kinds, join } = require('./support/clients');

/** The next `count` messages of an iterator. */
async function take(iterator, count) {
  const taken = [];
  while (taken.length < count) taken.push((await iterator.next()).value);
  return taken;
}

/** Resolves with the number once it has not changed for a while. */
async function steady(number) {
  let [last, since] = [Number.NaN, 0];
  while (since < 20) {
    await new Promise((resolve) => setTimeout(resolve, 25));
    since = number() === last ? since + 1 : 0;
    last = number();
  }
  return last;
}

for (const kind of kinds) {
  test(`${kind}: messages arrive in order from the call on, each with its response`, async (t) => {
    const server = await startServer(t);
    const a = await join(t, kind, server, 'a');
    const b = await join(t, kind, server, 'b');
    const messages = b.messages();
    for (let n = 0; n < 1000; n += 1) a.send(n, 'b');
    const asked = a.request('last', 'b');
    const expected = [...Array(1000).keys()].map((message) => ({ message, from: 'a' }));
    const heard = await take(messages, 1000);
    t.deepEqual(
      heard.map(({ message, from }) => ({ message, from })),
      expected,
    );
    t.is(heard[0].response, null);
    t.is(heard[0].answer, undefined);
    for await (const { message, from, answer } of messages) {
      t.deepEqual([message, from], ['last', 'a']);
      answer('done');
      break;
    }
    t.deepEqual(await asked, { from: 'b', message: 'done' });
    t.deepEqual(await messages.next(), { value: undefined, done: true });
  });

  test(`${kind}: a client that awaits its registration receives all messages after it`, async (t) => {
    const server = await startServer(t);
    const sender = await join(t, kind, server, 'sender');
    const ids = [...Array(50).keys()].map((n) => `client ${n}`);
    server.on('registered', (id) => {
      for (let n = 0; n < 20; n += 1) sender.send(n, id);
    });
    const heard = ids.map(async (id) => {
      const client = await join(t, kind, server, id);
      return (await take(client.messages(), 20)).map(({ message }) => message);
    });
    for (const messages of await Promise.all(heard)) t.deepEqual(messages, [...Array(20).keys()]);
  });

  test(`${kind}: every iterator receives every message`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const iterators = [client.messages(), client.messages()];
    client.send(1, 'client');
    for (const iterator of iterators) t.is((await iterator.next()).value.message, 1);
    await iterators[0].return();
    client.send(2, 'client');
    t.is((await iterators[1].next()).value.message, 2);
    t.true((await iterators[0].next()).done);
  });

  test(`${kind}: an iterator ends with its client, after its queued messages`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const messages = client.messages();
    const waiting = client.messages();
    const heard = once(client, 'message');
    const next = [waiting.next(), waiting.next()];
    client.send(1, 'client');
    await heard;
    await client.close();
    t.is((await messages.next()).value.message, 1);
    t.true((await messages.next()).done);
    t.is((await next[0]).value.message, 1);
    t.true((await next[1]).done);
    t.throws(() => client.messages(), { code: 'ERR_WSMB_NOT_OPEN' });
  });

  test(`${kind}: an iterator ends with its signal`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const control = new AbortController();
    const messages = client.messages(control);
    const next = messages.next();
    control.abort('enough');
    const error = await t.throwsAsync(next, { code: 'ABORT_ERR', name: 'AbortError' });
    t.is(error.cause, 'enough');
    t.true((await messages.next()).done);
    await t.throwsAsync(client.messages(control).next(), { code: 'ABORT_ERR' });
    t.throws(() => client.messages({ signal: 1 }), { code: 'ERR_WSMB_OPTION' });
  });
}

test('addon: a client whose messages are not consumed applies backpressure and loses none', async (t) => {
  t.timeout(60_000);
  const server = await startServer(t, { maxBackpressure: 65_536, slowConsumerTimeout: 60_000 });
  const sender = await join(t, 'addon', server, 'sender');
  const taker = await join(t, 'addon', server, 'taker');
  const messages = taker.messages({ highWaterMark: 10 });
  let arrived = 0;
  taker.on('message', () => {
    arrived += 1;
  });
  const count = 3000;
  const fill = 'x'.repeat(20_000);
  for (let n = 0; n < count; n += 1) sender.send([n, fill], 'taker');
  const held = await steady(() => arrived);
  t.true(held > 0 && held < count, `${held} of ${count}`);
  // An answer is still read, along with everything before it.
  const other = await join(t, 'addon', server, 'other');
  other.on('message', (_message, response) => response.send('here'));
  t.is((await taker.request('?', 'other')).message, 'here');
  for (const [n, { message }] of (await take(messages, count)).entries()) {
    t.is(message[0], n);
  }
});
