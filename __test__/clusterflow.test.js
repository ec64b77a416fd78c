'use strict';

// Flow control between brokers: the queues of one connection are bounded, and do not delay other connections.

const { once } = require('node:events');
const test = require('ava');
const { WebSocket } = require('ws');
const { answering, join, urlOf } = require('./support/clients');
const { startBroker, startCluster } = require('./support/cluster');
const { startNats } = require('../testkit/nats');
const { natsTalk } = require('./support/natstalk');
const { startPeers } = require('./support/peer');

/** Ids that one connection may look up at a time, and one for another connection. */
const LOOKUPS = 1024 + 1;
/**
 * Window for ids without a known broker; size of a message; size of its packet as the window counts it. In
 * bytes.
 */
const WINDOW = 1 << 20;
const BODY = 16_000;
const PACKET = BODY + 4096;

/** Resolves when the condition holds. */
async function until(isTrue) {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** A version 2 connection on which a test can write any frame, with all frames it received. */
async function raw(t, broker, id) {
  const socket = new WebSocket(urlOf(broker), { maxPayload: 64 << 20 });
  t.teardown(() => socket.terminate());
  const heard = [];
  socket.on('message', (data) => heard.push(JSON.parse(data)));
  await once(socket, 'open');
  const say = (action) => socket.send(JSON.stringify(action));
  say({ action: 'register', id, protocol: 2 });
  await until(() => heard.length > 0);
  return { say, heard, pause: () => socket.pause(), resume: () => socket.resume() };
}

/** Counts the maximum of remote ids at a broker until the returned function is called. */
function mostRemotes(broker) {
  let most = 0;
  const timer = setInterval(() => {
    most = Math.max(most, broker.stats().cluster.remotes);
  }, 1);
  return () => {
    clearInterval(timer);
    return most;
  };
}

/**
 * Sends requests to `dest` and to new ids in turn. The returned function stops it and resolves with all
 * outcomes.
 */
function askNew(asker, dest) {
  let isOver = false;
  const codes = new Set();
  const asking = (async () => {
    for (let n = 0; !isOver; n += 1) {
      codes.add(
        await asker.request(n, dest).then(
          () => 'answered',
          ({ code }) => code,
        ),
      );
      codes.add(
        await asker.request(n, `new${n}`).then(
          () => 'answered',
          ({ code }) => code,
        ),
      );
    }
  })();
  return async () => {
    isOver = true;
    await asking;
    return [...codes].sort();
  };
}

test('a message to more unknown ids than may be looked up at a time gets all receipts, without effect on others', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const [here, there] = brokers;
  const asker = await join(t, 'addon', here, 'asker');
  await answering(t, 'addon', there, 'known', (response) => response?.send(1));
  const sender = await raw(t, here, 'sender');
  const ids = Array.from({ length: 20_000 }, (_, n) => `unknown${n}`);
  const ended = mostRemotes(here);
  const answers = askNew(asker, 'known');
  for (const about of [{ ref: 1 }, { ack: 'a', ref: 2, answers: 2 }]) {
    sender.say({ action: 'send', message: 1, dest: [...ids, 'known'], ...about });
    await until(() => sender.heard.some(({ ref }) => ref === about.ref));
  }
  t.true(ended() <= LOOKUPS + 20);
  t.deepEqual(await answers(), ['UNKNOWN_ID', 'answered']);
  const receipts = sender.heard.filter(({ action }) => action === 'receipt');
  for (const { delivered, failed } of receipts) {
    t.deepEqual(delivered, ['known']);
    t.deepEqual(Object.keys(failed), ids);
    t.deepEqual([...new Set(Object.values(failed))], ['UNKNOWN_ID']);
  }
  t.is(receipts.length, 2);
  await until(() => sender.heard.some(({ action }) => action === 'answer'));
  // The failures follow the receipt, in one frame per id.
  const failed = () => sender.heard.filter(({ action }) => action === 'failed');
  await until(() => failed().length >= ids.length);
  t.is(failed().length, ids.length);
  t.deepEqual([...new Set(failed().map(({ code }) => code))], ['UNKNOWN_ID']);
  t.is(here.stats().unknownIds >= 2 * ids.length, true);
});

for (const [what, about] of [
  ['messages', () => ({})],
  ['requests', (n) => ({ ack: n + 1 })],
  ['delivered messages', (n) => ({ ref: n })],
]) {
  test(`a connection that sends ${what} to ever new unknown ids gets backpressure and loses none`, async (t) => {
    const { brokers } = await startCluster(t, 2);
    const [here, there] = brokers;
    const asker = await join(t, 'addon', here, 'asker');
    await answering(t, 'addon', there, 'known', (response) => response?.send(1));
    const sender = await raw(t, here, 'sender');
    const before = here.stats().unknownIds;
    const ended = mostRemotes(here);
    const answers = askNew(asker, 'known');
    const count = 20_000;
    const long = 'x'.repeat(500);
    for (let n = 0; n < count; n += 1) {
      sender.say({ action: 'send', message: n, dest: `${long}${n}`, ...about(n) });
    }
    const replies = () => sender.heard.filter(({ action }) => action !== 'registered').length;
    const hasReplies = Object.keys(about(0)).length > 0;
    await until(() => (hasReplies ? replies() : here.stats().unknownIds - before) >= count);
    t.true(ended() <= LOOKUPS + 20);
    t.deepEqual(await answers(), ['UNKNOWN_ID', 'answered']);
    if (hasReplies) t.is(replies(), count);
  });
}

test("the server's own client may send to ever new unknown ids, too", async (t) => {
  const { brokers } = await startCluster(t, 2);
  const [here] = brokers;
  const ended = mostRemotes(here);
  for (let n = 0; n < 20_000; n += 1) here.send(n, `unknown${n}`);
  await until(() => here.stats().unknownIds === 20_000);
  t.true(ended() <= LOOKUPS);
});

test('remote ids are found while a broker is short of memory', async (t) => {
  const nats = await startNats(t);
  const options = { maxMemory: 4 << 20, maxPayload: 64 << 20 };
  const here = await startBroker(t, nats, { ...options, nats: { name: 'here' } });
  const there = await startBroker(t, nats, { nats: { name: 'there' } });
  const asker = await join(t, 'addon', here, 'asker');
  await answering(t, 'addon', there, 'x', (response) => response.send(1));
  const large = new WebSocket(urlOf(here));
  t.teardown(() => large.terminate());
  large.on('error', () => {});
  await once(large, 'open');
  // The first fragment of a message that never ends.
  large.send('x'.repeat(5 << 20), { fin: false });
  // The broker closes the connection for that after half a second; it may have done so already.
  await until(() => here.stats().memory >= options.maxMemory || here.stats().evicted > 0);
  const asked = [asker.request(1, 'x'), asker.request(1, 'nobody').catch(({ code }) => code)];
  t.deepEqual(await Promise.all(asked), [{ from: 'x', message: 1 }, 'UNKNOWN_ID']);
});

/** A broker, two of its clients, and a peer broker that owns these ids. */
async function scene(t, ids) {
  const nats = await startNats(t);
  const broker = await startBroker(t, nats, { nats: { name: 'here' } });
  const [sender, other] = await Promise.all(
    ['sender', 'other'].map((id) => join(t, 'addon', broker, id)),
  );
  // Both registrations.
  await until(() => broker.stats().messagesIn === 2);
  const [peer] = await startPeers(t, nats, 1);
  await Promise.all(ids.map((id) => peer.subscribe(id)));
  return { broker, sender, other, peer };
}

/** The message in a packet. */
function messageOf({ frames }) {
  return frames.find(({ action }) => action === 'message')?.message;
}

test('packets in flight are bounded, and a small message waits for one packet of others', async (t) => {
  const ids = Array.from({ length: 200 }, (_, n) => `r${n}`);
  const { broker, sender, other, peer } = await scene(t, [...ids, 'own']);
  sender.send('x'.repeat(BODY), ids);
  await until(() => broker.stats().messagesIn === 3);
  other.send('little', 'own');
  await until(() => broker.stats().messagesIn === 4);
  const most = Math.ceil(WINDOW / PACKET);
  const packets = [];
  while (packets.length < most - 5) packets.push(await peer.next());
  // The window is full, or nearly: each returned credit lets one more packet out.
  let [before, returned] = [packets.length, 0];
  for (;;) {
    await peer.returnCredit(packets[returned], { consumed: false });
    returned += 1;
    const packet = await peer.next();
    packets.push(packet);
    if (messageOf(packet) === 'little') break;
    before += 1;
  }
  t.true(before < most + 10, `${before} packets`);
  // No message is lost.
  for (; before < ids.length; before += 1) {
    await peer.returnCredit(packets[returned]);
    returned += 1;
    packets.push(await peer.next());
    t.is(messageOf(packets.at(-1)).length, BODY);
  }
});

test('bytes that were not consumed count against the window of their id after any pause', async (t) => {
  const { broker, sender, peer } = await scene(t, ['x', 'y']);
  const body = 'x'.repeat(300_000);
  const packets = [];
  for (let n = 0; n < 2; n += 1) {
    sender.send([n, body], 'x');
    packets.push(await peer.next());
    await peer.returnCredit(packets[n], { consumed: false });
    // An unused remote id is forgotten after two checks, a quarter of a second apart.
    await new Promise((resolve) => setTimeout(resolve, 1200));
    t.is(broker.stats().cluster.remotes, 1);
  }
  sender.send([2, body], 'x');
  sender.send('to y', 'y');
  const next = await peer.next();
  t.is(messageOf(next), 'to y');
  await peer.returnCredit(next);
  await peer.returnCredit(packets[0], { arrived: false });
  const last = await peer.next();
  t.is(messageOf(last)[0], 2);
  for (const packet of [packets[1], last]) await peer.returnCredit(packet);
  await until(() => broker.stats().cluster.remotes === 0);
});

test('a responder that outruns another broker gets backpressure, and no answer is lost', async (t) => {
  const nats = await startNats(t);
  const broker = await startBroker(t, nats, { nats: { name: 'here' } });
  const body = 'x'.repeat(100_000);
  const count = 200;
  let answered = 0;
  await answering(t, 'addon', broker, 'answers', (response) => {
    response.send(body);
    answered += 1;
  });
  await answering(t, 'addon', broker, 'other', (response) => response.send(1));
  const asker = await join(t, 'addon', broker, 'asker');
  const [peer] = await startPeers(t, nats, 1);
  await peer.subscribeNode();
  await peer.sendHeartbeats(t);
  for (let n = 1; n <= count; n += 1) await peer.sendRequest('answers', n, n);
  await until(() => answered === count);
  // Other connections are not delayed.
  for (let n = 0; n < 200; n += 1) await asker.request(n, 'other');
  t.true(broker.stats().memory < 4 << 20, `${broker.stats().memory} bytes`);
  for (let n = 0; n < count; ) {
    const packet = await peer.next();
    await peer.returnCredit(packet);
    n += packet.frames.length;
  }
  t.pass();
});

test('bytes queued for a slow receiver count as memory of its broker', async (t) => {
  const { brokers } = await startCluster(t, 2, {
    maxBackpressure: 64 << 10,
    slowConsumerTimeout: 60_000,
  });
  const [here, there] = brokers;
  const sender = await join(t, 'addon', here, 'sender');
  const receiver = await raw(t, there, 'slow');
  const { memory } = there.stats();
  receiver.pause();
  for (let n = 0; n < 400; n += 1) sender.send('x'.repeat(50_000), 'slow');
  // The window of the receiver's link is 512 KiB.
  await until(() => there.stats().memory - memory > 400_000);
  t.true(there.stats().memory - memory < 1 << 20);
  receiver.resume();
  await until(() => receiver.heard.length === 401);
  await until(() => there.stats().memory - memory < 100_000);
});

test('credit for many ids is combined', async (t) => {
  const { nats, brokers } = await startCluster(t, 2);
  const [here, there] = brokers;
  const sender = await join(t, 'addon', here, 'sender');
  const ids = Array.from({ length: 300 }, (_, n) => `r${n}`);
  const receivers = await Promise.all(ids.map((id) => join(t, 'addon', there, id)));
  const talk = await natsTalk(t, nats);
  await talk.sub('wsmb.default.node.>');
  const heard = Promise.all(receivers.map((receiver) => once(receiver, 'message')));
  for (const id of ids) sender.send(1, id);
  await heard;
  // An unused remote id is forgotten once all of its credit was returned.
  await until(() => here.stats().cluster.remotes === 0);
  t.true(talk.messages.length < ids.length / 2, `${talk.messages.length} messages`);
});
