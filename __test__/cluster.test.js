'use strict';

// Several brokers as one cluster: behaviour is the same as on one broker.

const { once } = require('node:events');
const test = require('ava');
const { WebSocket } = require('ws');
const {
  answering,
  aborted,
  failure,
  join,
  settled,
  receiptCodes,
  urlOf,
} = require('./support/clients');
const { startBroker, startCluster } = require('./support/cluster');
const { startNats } = require('../testkit/nats');
const { WSMsgBroker } = require('./support/start');

/** The next message of a client, and its sender. */
async function heard(client) {
  const [message, , from] = await once(client, 'message');
  return [message, from];
}

/** A registered connection on which a test can write any frame. */
async function raw(t, broker, id) {
  const socket = new WebSocket(urlOf(broker));
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  const registered = once(socket, 'message');
  socket.send(JSON.stringify({ action: 'register', id, protocol: 2 }));
  await registered;
  return socket;
}

test('a message reaches an id on another broker, with its sender', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const b = await join(t, 'addon', brokers[1], 'b');
  const got = heard(b);
  a.send({ n: 1 }, 'b');
  t.deepEqual(await got, [{ n: 1 }, 'a']);
  const back = heard(a);
  b.send('x', 'a');
  t.deepEqual(await back, ['x', 'b']);
  // Each broker has passed on the message of its own client and the one from the other broker.
  for (const { messagesOut, cluster } of brokers.map((broker) => broker.stats())) {
    t.deepEqual([messagesOut, cluster.received], [2, 1]);
  }
});

// Rule 33.2.
test('many messages arrive in order, without loss or duplicates', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const b = await join(t, 'addon', brokers[1], 'b');
  const count = 50_000;
  const got = [];
  const all = new Promise((resolve) => {
    b.on('message', (n) => got.push(n) === count && resolve());
  });
  for (let n = 0; n < count; n += 1) a.send(n, 'b');
  await all;
  t.true(got.every((value, n) => value === n));
});

test('large messages exceed the window of a link, and traffic continues', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const b = await join(t, 'addon', brokers[1], 'b');
  const body = 'x'.repeat(500_000);
  const lengths = [];
  const all = new Promise((resolve) => {
    b.on('message', ([n, text]) => {
      lengths.push(n);
      t.is(text.length, body.length);
      if (lengths.length === 40) resolve();
    });
  });
  for (let n = 0; n < 40; n += 1) a.send([n, body], 'b');
  await all;
  t.deepEqual(lengths, [...Array(40).keys()]);
});

test('a multicast reaches each of its receivers once, on any broker', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const sender = await join(t, 'addon', brokers[0], 's');
  const ids = ['a', 'b', 'c', 'd', 'e', 'f'];
  const joined = await Promise.all(ids.map((id, n) => join(t, 'addon', brokers[n % 3], id)));
  const all = Promise.all(joined.map(heard));
  sender.send('all', ids);
  t.deepEqual(await all, Array(6).fill(['all', 's']));
  const receipt = await receiptCodes(sender.deliver(1, [...ids, 'nobody']));
  t.deepEqual([...receipt.delivered].sort(), ids);
  t.deepEqual(receipt.failed, { nobody: 'UNKNOWN_ID' });
});

test('requests across brokers are answered, rejected and gathered', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  await answering(t, 'addon', brokers[1], 'one', (response, n, from) => response.send([n, from]));
  await answering(t, 'browser', brokers[2], 'two', (response) =>
    response.reject({ code: 'NO', message: 'not me' }),
  );
  await answering(t, 'addon', brokers[0], 'three', (response) => response.send(3));
  // Both are on the same broker, and both may answer.
  await answering(t, 'addon', brokers[1], 'four', (response) => response.send(4));
  const asked = [...Array(200).keys()].map((n) => asker.request(n, 'one'));
  const expected = (n) => ({ from: 'one', message: [n, 'asker'] });
  t.deepEqual(await Promise.all(asked), [...Array(200).keys()].map(expected));
  const refused = await failure(asker.request(1, 'two'));
  t.is(refused.code, 'NO');
  t.is(refused.from, 'two');
  const { answers, failed } = await asker.requestAll(7, ['one', 'two', 'three', 'four', 'nobody']);
  t.deepEqual([...answers].sort(), [
    ['four', 4],
    ['one', [7, 'asker']],
    ['three', 3],
  ]);
  t.deepEqual([...failed].map(([id, { code }]) => [id, code]).sort(), [
    ['nobody', 'UNKNOWN_ID'],
    ['two', 'NO'],
  ]);
  await Promise.all(brokers.map(settled));
  t.pass();
});

test('the fastest answer wins, and the other responders are aborted', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  const slow = await join(t, 'addon', brokers[1], 'slow');
  const asked = once(slow, 'message');
  await answering(t, 'addon', brokers[2], 'fast', (response) => asked.then(() => response.send(1)));
  t.deepEqual(await asker.request('x', ['slow', 'fast']), { from: 'fast', message: 1 });
  const [, { signal }] = await asked;
  t.is(await aborted(signal), 'ERR_WSMB_CANCELLED');
  await Promise.all(brokers.map(settled));
});

test('a responder that has answered is not aborted, and others on its broker continue', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  await answering(t, 'addon', brokers[1], 'one', (response) => response.send(1));
  const two = await join(t, 'addon', brokers[1], 'two');
  const asked = once(two, 'message');
  const all = asker.requestAll('x', ['one', 'two']);
  const [, response] = await asked;
  t.deepEqual(await asker.request('y', 'one'), { from: 'one', message: 1 });
  t.false(response.signal.aborted);
  response.send(2);
  t.deepEqual([...(await all).answers].sort(), [
    ['one', 1],
    ['two', 2],
  ]);
});

// The message to both receivers first just fits into the NATS payload, then each copy does, then none.
test('messages just below the NATS payload limit are delivered and answered', async (t) => {
  const nats = await startNats(t, { maxPayload: 2000 });
  const options = (name) => ({ nats: { name } });
  const brokers = await Promise.all(
    ['b0', 'b1'].map((name) => startBroker(t, nats, options(name))),
  );
  const a = await join(t, 'addon', brokers[0], 'a');
  await answering(t, 'addon', brokers[1], 'b', (response, message) =>
    response?.send(message.length),
  );
  let [served, refused] = [0, 0];
  for (let length = 700; length < 2000; length += length < 1000 ? 1 : 7) {
    const text = 'x'.repeat(length);
    const [receipt, answer] = await Promise.all([
      receiptCodes(a.deliver(text, 'b')).catch(({ code }) => ({ failed: { b: code } })),
      a.request(text, 'b').catch(({ code }) => ({ message: code })),
    ]);
    if (answer.message === length) served += 1;
    else t.is(answer.message, 'ERR_WSMB_CLUSTER_PAYLOAD');
    if (receipt.failed.b === undefined) t.deepEqual(receipt.delivered, ['b']);
    else {
      refused += 1;
      t.is(receipt.failed.b, 'ERR_WSMB_CLUSTER_PAYLOAD');
    }
  }
  t.true(served > 300 && refused > 10, `${served} served, ${refused} refused`);
});

test('a request fails if its id is unknown or its responder disconnects', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  t.is((await failure(asker.request(1, 'nobody'))).code, 'UNKNOWN_ID');
  const [warning] = await Promise.all([once(brokers[0], 'warn'), asker.send(1, 'nobody')]);
  t.is(warning[0].code, 'ERR_WSMB_UNKNOWN_ID');
  await answering(t, 'addon', brokers[1], 'leaver', (_response, _message, from) => {
    t.is(from, 'asker');
    brokers[1].disconnect('leaver');
  });
  t.is((await failure(asker.request(1, 'leaver'))).code, 'GONE');
  t.deepEqual(await receiptCodes(asker.deliver(1, 'leaver')), {
    delivered: [],
    failed: { leaver: 'UNKNOWN_ID' },
  });
});

test('abort and timeout of a request cancel it on the other broker', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  const signals = [];
  let both;
  const two = new Promise((resolve) => {
    both = resolve;
  });
  await answering(t, 'addon', brokers[1], 'idle', (response) => {
    signals.push(aborted(response.signal));
    if (signals.length === 2) both();
  });
  const controller = new AbortController();
  const first = failure(asker.request(1, 'idle', { signal: controller.signal }));
  const second = failure(asker.request(2, 'idle', { timeout: 500 }));
  await two;
  controller.abort();
  t.is((await first).error.name, 'AbortError');
  t.is((await second).code, 'TIMEOUT');
  t.deepEqual(await Promise.all(signals), ['ERR_WSMB_CANCELLED', 'ERR_WSMB_CANCELLED']);
  await Promise.all(brokers.map(settled));
});

// Rule 33.1.
// Rule 33.5.
test('a message larger than the NATS payload is rejected with a code, and the connection stays open', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const big = 'x'.repeat(1_100_000);
  const b = await answering(t, 'addon', brokers[1], 'b', (response, message) =>
    response.send(message === 'big' ? big : message),
  );
  const refused = once(b, 'error');
  t.is((await failure(a.request(big, 'b'))).code, 'ERR_WSMB_CLUSTER_PAYLOAD');
  t.is((await failure(a.deliver(big, 'b'))).code, 'ERR_WSMB_CLUSTER_PAYLOAD');
  t.is((await failure(a.request('big', 'b'))).code, 'ERR_WSMB_CLUSTER_PAYLOAD');
  t.is((await refused)[0].code, 'ERR_WSMB_CLUSTER_PAYLOAD');
  t.deepEqual(await a.request('small', 'b'), { from: 'b', message: 'small' });
  t.deepEqual(await receiptCodes(a.deliver(big, 'a')), { delivered: ['a'], failed: {} });
});

// Rule 33.6.
test("an ack that is pending on the receiver's broker is taken", async (t) => {
  const { brokers } = await startCluster(t, 3);
  const [one, other, receiver] = await Promise.all(
    ['one', 'other', 'x'].map((id, n) => raw(t, brokers[n], id)),
  );
  const asked = once(receiver, 'message');
  one.send(JSON.stringify({ action: 'send', message: 1, dest: 'x', ack: 'k' }));
  await asked;
  const replies = [];
  const all = new Promise((resolve) => {
    other.on('message', (data) => replies.push(JSON.parse(data)) === 2 && resolve());
  });
  other.send(JSON.stringify({ action: 'send', message: 2, dest: 'x', ack: 'k', ref: 1 }));
  await all;
  t.deepEqual(replies, [
    { action: 'receipt', ref: 1, delivered: [], failed: { x: 'UNKNOWN_ID' } },
    { action: 'failed', ack: 'k', dest: 'x', code: 'ERR_WSMB_ACK_TAKEN' },
  ]);
});

test('version 1 clients exchange messages across brokers', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const open = async (broker, id) => {
    const client = new WSMsgBroker(id, '127.0.0.1', broker.address().port, '/');
    t.teardown(() => client.close());
    await once(client, 'registered');
    return client;
  };
  const a = await open(brokers[0], 'a');
  const b = await open(brokers[1], 'b');
  b.on('message', (message, response) => response.send([message, 'back']));
  const answer = await new Promise((resolve) => {
    a.send('there', 'b', (...args) => resolve(args));
  });
  t.deepEqual(answer.slice(0, 2).flat().includes('back'), true);
});

test('a slow receiver delays its senders on other brokers, and no message is lost', async (t) => {
  const { brokers } = await startCluster(t, 2, {
    maxBackpressure: 1 << 20,
    slowConsumerTimeout: 60_000,
  });
  const a = await join(t, 'addon', brokers[0], 'a', { highWaterMark: 1 << 20 });
  const b = await join(t, 'addon', brokers[1], 'b');
  const other = await join(t, 'addon', brokers[1], 'other');
  const body = 'x'.repeat(100_000);
  const messages = b.messages();
  const count = 300;
  for (let n = 0; n < count; n += 1) a.send([n, body], 'b');
  // While the receiver reads nothing, other clients are served.
  const c = await join(t, 'addon', brokers[0], 'c');
  const got = heard(other);
  c.send('hello', 'other');
  t.deepEqual(await got, ['hello', 'c']);
  let expected = 0;
  for await (const { message } of messages) {
    t.is(message[0], expected);
    expected += 1;
    if (expected === count) break;
  }
  t.is(expected, count);
});

// Rules 25.9 and 33.3.
