'use strict';

// Many brokers as one: what works at one works across them.

const { once } = require('node:events');
const test = require('ava');
const { WebSocket } = require('ws');
const clients = require('./support/clients');
const { WSMsgBroker, startServer } = require('./support/start');
const { startBroker, startCluster, state } = require('./support/cluster');
const { natsTalk } = require('./support/natstalk');

const { open, join, answering, failure, told, aborted, settled, urlOf } = clients;

/** The next message of a client, and who sent it. */
async function heard(client) {
  const [message, , from] = await once(client, 'message');
  return [message, from];
}

/** A registered connection that says what it likes. */
async function raw(t, broker, id) {
  const socket = new WebSocket(urlOf(broker));
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  const registered = once(socket, 'message');
  socket.send(JSON.stringify({ action: 'register', id, protocol: 2 }));
  await registered;
  return socket;
}

test('a message reaches an id at another broker, with its sender', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  const b = await join(t, 'addon', brokers[1], 'b');
  const got = heard(b);
  a.send({ n: 1 }, 'b');
  t.deepEqual(await got, [{ n: 1 }, 'a']);
  const back = heard(a);
  b.send('x', 'a');
  t.deepEqual(await back, ['x', 'b']);
});

// Rule 33.2.
test('many messages come in order, and none is lost or doubled', async (t) => {
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

test('large messages fill the way, and go on', async (t) => {
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

test('a multicast reaches all its receivers, wherever they are, each once', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const sender = await join(t, 'addon', brokers[0], 's');
  const ids = ['a', 'b', 'c', 'd', 'e', 'f'];
  const joined = await Promise.all(ids.map((id, n) => join(t, 'addon', brokers[n % 3], id)));
  const all = Promise.all(joined.map(heard));
  sender.send('all', ids);
  t.deepEqual(await all, Array(6).fill(['all', 's']));
  const receipt = await told(sender.deliver(1, [...ids, 'nobody']));
  t.deepEqual([...receipt.delivered].sort(), ids);
  t.deepEqual(receipt.failed, { nobody: 'UNKNOWN_ID' });
});

test('requests are answered, refused and gathered across brokers', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  await answering(t, 'addon', brokers[1], 'one', (response, n, from) => response.send([n, from]));
  await answering(t, 'browser', brokers[2], 'two', (response) =>
    response.reject({ code: 'NO', message: 'not me' }),
  );
  await answering(t, 'addon', brokers[0], 'three', (response) => response.send(3));
  // Two at the same broker: both may answer.
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

test('the fastest wins, and the others hear that it is over', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  let over;
  const asked = new Promise((resolve) => {
    answering(t, 'addon', brokers[1], 'slow', (response) => {
      over = aborted(response.signal);
      resolve();
    }).then(() =>
      answering(t, 'addon', brokers[2], 'fast', (response) =>
        asked.then(() => response.send(1)),
      ).then(async () => {
        t.deepEqual(await asker.request('x', ['slow', 'fast']), { from: 'fast', message: 1 });
        t.is(await over, 'ERR_WSMB_CANCELLED');
        done();
      }),
    );
  });
  let done;
  await new Promise((resolve) => {
    done = resolve;
  });
  await Promise.all(brokers.map(settled));
});

test('a request fails when nobody is there, or whoever was asked leaves', async (t) => {
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
  t.deepEqual(await told(asker.deliver(1, 'leaver')), {
    delivered: [],
    failed: { leaver: 'UNKNOWN_ID' },
  });
});

test('what is aborted is cancelled at the other broker, and what is late is given up', async (t) => {
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
test('the newest registration has the id, at whatever broker; the old one hears of it', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  const old = await join(t, 'addon', brokers[0], 'x');
  let answerLate;
  const asked = new Promise((resolve) => {
    old.on('message', (_message, response) => {
      answerLate = () => response.send('late');
      resolve();
    });
  });
  const lost = failure(asker.request(1, 'x'));
  await asked;
  const replaced = once(old, 'replaced');
  const next = await join(t, 'addon', brokers[1], 'x');
  await replaced;
  t.is((await lost).code, 'REPLACED');
  answerLate();
  next.on('message', (_message, response) => response?.send('new'));
  t.deepEqual(await asker.request(2, 'x'), { from: 'x', message: 'new' });
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [false, true],
  );
  // And back, where the other has not been answered yet.
  const again = once(next, 'replaced');
  await join(t, 'addon', brokers[0], 'x');
  await again;
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [true, false],
  );
});

test('all brokers say which ids they have, and who does not is named', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const ids = ['a', 'b', 'c', 'd.*', 'e >'];
  await Promise.all(ids.map((id, n) => join(t, 'addon', brokers[n % 3], id)));
  const found = await brokers[1].cluster.ids();
  t.deepEqual([...found.ids].sort(), ids);
  t.deepEqual(found.silent, []);
  t.deepEqual(await brokers[0].cluster.has('b'), { has: true, broker: 'b1', silent: [] });
  t.deepEqual(await brokers[0].cluster.has('z'), { has: false, broker: null, silent: [] });
  t.deepEqual(brokers[2].cluster.brokers(), ['b0', 'b1', 'b2']);
  t.is((await startServer(t)).cluster, null);
});

test('any id works across brokers, and none reaches a subject as it is', async (t) => {
  const { nats, brokers } = await startCluster(t, 2);
  const spy = await natsTalk(t, nats);
  await spy.sub('>');
  const sender = await join(t, 'addon', brokers[0], 'sender');
  const ids = [
    'a.b',
    '*',
    '>',
    'wsmb.default.>',
    ' ',
    'a b',
    '\u0000\u0001\r\n',
    '\t',
    '😀',
    'é',
    'x'.repeat(8192),
    `y${'.'.repeat(8000)}`,
    '_INBOX.1',
    '$SYS.>',
    '"',
    '\\',
    'ünïcödé ✓',
  ];
  await Promise.all(ids.map((id) => join(t, 'addon', brokers[1], id)));
  for (const id of ids) {
    const receipt = await told(sender.deliver(1, id));
    t.deepEqual(receipt, { delivered: [id], failed: {} });
  }
  const { ids: found } = await brokers[0].cluster.ids();
  t.deepEqual([...found].sort(), ['sender', ...ids].sort());
  await spy.flush();
  t.true(spy.messages.length > ids.length);
  for (const { subject } of spy.messages) t.regex(subject, /^wsmb\.default\.[\w.-]+$/);
});

// Rule 33.5.
test('what is larger than NATS allows is refused with a code, and the connection goes on', async (t) => {
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
  t.deepEqual(await told(a.deliver(big, 'a')), { delivered: ['a'], failed: {} });
});

// Rule 33.6.
test('an ack that is pending at the broker of the receiver is taken', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const asked = new Promise((resolve) => {
    answering(t, 'addon', brokers[2], 'x', resolve).then(async () => {
      const [one, other] = await Promise.all([0, 1].map((n) => raw(t, brokers[n], `asker${n}`)));
      one.send(JSON.stringify({ action: 'send', message: 1, dest: 'x', ack: 'k' }));
      await asked;
      const failed = once(other, 'message');
      other.send(JSON.stringify({ action: 'send', message: 2, dest: 'x', ack: 'k' }));
      resolveFailed(JSON.parse((await failed)[0]));
    });
  });
  let resolveFailed;
  const failed = await new Promise((resolve) => {
    resolveFailed = resolve;
  });
  t.deepEqual(failed, { action: 'failed', ack: 'k', dest: 'x', code: 'ERR_WSMB_ACK_TAKEN' });
});

test('an id belongs to its principal, at whatever broker', async (t) => {
  const authenticate = ({ token }) => ({ principal: token });
  const { brokers } = await startCluster(t, 2, { authenticate });
  await join(t, 'addon', brokers[0], 'x', { token: 'alice' });
  const denied = await failure(join(t, 'addon', brokers[1], 'x', { token: 'mallory' }));
  t.is(denied.code, 'ERR_WSMB_CONFLICT');
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [true, false],
  );
  await join(t, 'addon', brokers[1], 'x', { token: 'alice' });
  t.true(brokers[1].has('x'));
});

test('clients of version 1 talk across brokers as they do at one', async (t) => {
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

test('each broker takes part under an id of its own', async (t) => {
  const { brokers } = await startCluster(t, 2);
  t.deepEqual(
    brokers.map(({ id }) => id),
    ['server-b0', 'server-b1'],
  );
  const client = await join(t, 'addon', brokers[1], 'c');
  client.on('message', (message, response) => response.send(message + 1));
  t.deepEqual(await brokers[0].request(1, 'c'), { from: 'c', message: 2 });
});

test('no peer takes the id of a participant, at whatever broker', async (t) => {
  const { brokers } = await startCluster(t, 2);
  await brokers[0].client.connected();
  const thief = open(t, 'addon', brokers[0].id, urlOf(brokers[1]));
  const denied = new Promise((resolve) => {
    thief.on('error', resolve);
  });
  t.is((await denied).code, 'ERR_WSMB_CONFLICT');
  t.deepEqual(
    brokers.map((broker) => broker.has(brokers[0].id)),
    [true, false],
  );
  const client = await join(t, 'addon', brokers[1], 'c');
  brokers[0].client.on('message', (message, response) => response.send(message));
  t.is((await client.request(1, brokers[0].id)).message, 1);
});

test('brokers of another namespace are not there', async (t) => {
  const { nats, brokers } = await startCluster(t, 1);
  const other = await startBroker(t, nats, { nats: { namespace: 'other' } });
  await join(t, 'addon', other, 'x');
  const a = await join(t, 'addon', brokers[0], 'a');
  t.is((await failure(a.request(1, 'x'))).code, 'UNKNOWN_ID');
});

test('a slow receiver holds who sends to it from another broker, and loses nothing', async (t) => {
  const { brokers } = await startCluster(t, 2, { maxBackpressure: 1 << 20 });
  const a = await join(t, 'addon', brokers[0], 'a', { highWaterMark: 1 << 20 });
  const b = await join(t, 'addon', brokers[1], 'b');
  const other = await join(t, 'addon', brokers[1], 'other');
  const body = 'x'.repeat(100_000);
  const messages = b.messages();
  const count = 300;
  for (let n = 0; n < count; n += 1) a.send([n, body], 'b');
  // While nobody reads, bystanders are served.
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
test('while NATS is away what is here goes on, and what is elsewhere fails at once', async (t) => {
  const { nats, brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  await answering(t, 'addon', brokers[0], 'near', (response) => response?.send('near'));
  const far = await join(t, 'addon', brokers[1], 'far');
  let asked;
  const pending = new Promise((resolve) => {
    asked = resolve;
  });
  far.on('message', (message, response) => (message === 'wait' ? asked() : response?.send('far')));
  const lost = failure(a.request('wait', 'far'));
  await pending;
  const down = brokers.map((broker) => state(broker, 'disconnected'));
  await nats.kill();
  await Promise.all(down);
  t.is((await lost).code, 'CLUSTER_DOWN');
  t.is((await failure(a.request(1, 'far'))).code, 'CLUSTER_DOWN');
  t.deepEqual(await told(a.deliver(1, ['near', 'far'])), {
    delivered: ['near'],
    failed: { far: 'CLUSTER_DOWN' },
  });
  t.deepEqual(await a.request(1, 'near'), { from: 'near', message: 'near' });
  // Who registers meanwhile is found when NATS is back.
  await answering(t, 'addon', brokers[1], 'late', (response) => response.send('late'));
  const up = brokers.map((broker) => state(broker, 'connected'));
  await nats.start();
  await Promise.all(up);
  t.deepEqual(await a.request(1, 'far'), { from: 'far', message: 'far' });
  t.deepEqual(await a.request(1, 'late'), { from: 'late', message: 'late' });
});

test('both sides of a partition had an id: when it heals, the newest has it', async (t) => {
  const { nats, brokers } = await startCluster(t, 2);
  const down = brokers.map((broker) => state(broker, 'disconnected'));
  await nats.kill();
  await Promise.all(down);
  const first = await join(t, 'addon', brokers[0], 'x');
  const second = await join(t, 'addon', brokers[1], 'x');
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [true, true],
  );
  const replaced = once(first, 'replaced');
  const up = brokers.map((broker) => state(broker, 'connected'));
  await nats.start();
  await Promise.all([...up, replaced]);
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [false, true],
  );
  second.on('message', (_message, response) => response.send('second'));
  const a = await join(t, 'addon', brokers[0], 'a');
  t.deepEqual(await a.request(1, 'x'), { from: 'x', message: 'second' });
});

test('a server whose NATS is required ends without it, and says why', async (t) => {
  const server = new WSMsgBroker.Server({
    port: 0,
    host: '127.0.0.1',
    nats: { servers: 'nats://127.0.0.1:1', required: true, timeout: 300 },
  });
  const error = await t.throwsAsync(server.ready);
  t.is(error.code, 'ERR_WSMB_CLUSTER');
  t.regex(error.message, /NATS/);
});

test('a server that does not require it serves those who are here, and tries on', async (t) => {
  const server = await startServer(t, { nats: { servers: ['nats://127.0.0.1:1'] } });
  const failed = await once(server, 'cluster');
  t.is(failed[0], 'failed');
  await answering(t, 'addon', server, 'b', (response) => response.send(1));
  const a = await join(t, 'addon', server, 'a');
  t.deepEqual(await a.request(1, 'b'), { from: 'b', message: 1 });
  t.is((await failure(a.request(1, 'elsewhere'))).code, 'CLUSTER_DOWN');
  t.regex(urlOf(server), /^ws/);
});
