'use strict';

// Failures in a cluster: of NATS, of one of its servers, of a broker.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const path = require('node:path');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const {
  answering,
  failure,
  join,
  open,
  refused,
  settled,
  receiptCodes,
  urlOf,
} = require('./support/clients');
const { acquainted, startBroker, startCluster, state } = require('./support/cluster');
const { startNats, startNatsCluster } = require('../testkit/nats');
const { WSMsgBroker, startServer } = require('./support/start');

const BROKER = path.join(__dirname, '..', 'soak', 'cluster', 'broker.js');

/** A broker in a process of its own. */
async function startProcess(t, nats, name) {
  const child = fork(BROKER, [name, nats.url]);
  t.teardown(() => child.kill('SIGKILL'));
  const [{ port }] = await once(child, 'message');
  return { child, port, address: () => ({ port }) };
}

/** Resolves when the condition holds. */
async function until(isTrue) {
  while (!(await isTrue())) await new Promise((resolve) => setTimeout(resolve, 10));
}

/** The states of the threads of a process. */
function threads(pid) {
  const folder = `/proc/${pid}/task`;
  const stats = fs.readdirSync(folder).map((id) => fs.readFileSync(`${folder}/${id}/stat`, 'utf8'));
  return stats.map((stat) => stat.slice(stat.lastIndexOf(')') + 2)[0]);
}

// Rule 33.7.
test('the ids of a killed broker are unknown at once, and its pending requests fail', async (t) => {
  const nats = await startNats(t);
  const near = await startBroker(t, nats, { nats: { namespace: 'soak', name: 'near' } });
  const far = await startProcess(t, nats, 'far');
  const asker = await join(t, 'addon', near, 'asker');
  const asked = new Promise((resolve) => {
    answering(t, 'addon', far, 'x', resolve);
  });
  await until(() => near.cluster.brokers().length === 2);
  await until(async () => (await near.cluster.has('x')).has);
  const lost = failure(asker.request(1, 'x', { timeout: 60_000 }));
  await asked;
  far.child.kill('SIGKILL');
  await once(far.child, 'exit');
  await until(async () => (await failure(asker.request(2, 'x'))).code === 'UNKNOWN_ID');
  t.is((await lost).code, 'GONE');
  // Until the killed broker is missed, it is listed as silent.
  await until(() => near.cluster.brokers().length === 1);
  t.deepEqual(await near.cluster.ids(), { ids: ['asker'], silent: [] });
  await settled(near);
});

// Rule 33.4.
test("a receipt has the code TIMEOUT if the receiver's broker is suspended", async (t) => {
  const nats = await startNats(t);
  const near = await startBroker(t, nats, { nats: { namespace: 'soak', name: 'near' } });
  const far = await startProcess(t, nats, 'far');
  const sender = await join(t, 'addon', near, 'sender');
  await join(t, 'addon', far, 'x');
  t.deepEqual(await receiptCodes(sender.deliver(1, 'x')), { delivered: ['x'], failed: {} });
  far.child.kill('SIGSTOP');
  await until(() => threads(far.child.pid).every((state) => state === 'T'));
  t.deepEqual(await receiptCodes(sender.deliver(2, 'x')), {
    delivered: [],
    failed: { x: 'TIMEOUT' },
  });
});

test("requests of a killed broker are cancelled at the responder's broker", async (t) => {
  const nats = await startNats(t);
  const near = await startBroker(t, nats, { nats: { namespace: 'soak', name: 'near' } });
  const far = await startProcess(t, nats, 'far');
  const asker = open(t, 'addon', 'asker', `ws://127.0.0.1:${far.port}/`);
  asker.on('error', () => {});
  await asker.connected();
  const cancelled = new Promise((resolve) => {
    answering(t, 'addon', near, 'x', (response) => {
      response.signal.addEventListener('abort', () => resolve(response.signal.reason.code));
      far.child.kill('SIGKILL');
    }).then(() => asker.request(1, 'x').catch(() => {}));
  });
  t.is(await cancelled, 'ERR_WSMB_CANCELLED');
  await settled(near);
});

for (const version of ['new', 'old']) {
  test(`${version} NATS: a paused server is detected, local traffic continues, and the cluster recovers`, async (t) => {
    const nats = await startNats(t, { version });
    const brokers = await Promise.all(
      ['b0', 'b1'].map((name) => startBroker(t, nats, { nats: { name } })),
    );
    await acquainted(brokers);
    const a = await join(t, 'addon', brokers[0], 'a');
    await answering(t, 'addon', brokers[0], 'near', (response) => response.send('near'));
    await answering(t, 'addon', brokers[1], 'far', (response) => response.send('far'));
    t.is((await a.request(1, 'far')).message, 'far');
    const down = brokers.map((broker) => state(broker, 'disconnected'));
    await nats.pause();
    const lost = failure(a.request(1, 'far'));
    t.is((await a.request(1, 'near')).message, 'near');
    await Promise.all(down);
    t.is((await lost).code, 'CLUSTER_DOWN');
    t.is((await failure(a.request(1, 'far'))).code, 'CLUSTER_DOWN');
    const up = brokers.map((broker) => state(broker, 'connected'));
    nats.resume();
    await Promise.all(up);
    t.is((await a.request(1, 'far')).message, 'far');
  });
}

test('a paused server is detected under load, and local traffic continues', async (t) => {
  const { nats, brokers } = await startCluster(t, 2);
  const a = await join(t, 'addon', brokers[0], 'a');
  await answering(t, 'addon', brokers[0], 'near', (response) => response.send('near'));
  const ids = Array.from({ length: 200 }, (_, n) => `far${n}`);
  await Promise.all(ids.map((id) => join(t, 'addon', brokers[1], id)));
  t.deepEqual((await receiptCodes(a.deliver(1, ids))).failed, {});
  const down = state(brokers[0], 'disconnected');
  await nats.pause();
  // More than the buffers of the system, the NATS client and all links hold.
  const big = 'x'.repeat(200_000);
  for (let n = 0; n < 10; n += 1) a.send(big, ids);
  const near = a.request(1, 'near');
  await down;
  t.is((await near).message, 'near');
  t.is((await failure(a.request(1, 'far0'))).code, 'CLUSTER_DOWN');
  const up = state(brokers[0], 'connected');
  await nats.resume();
  await up;
});

test('a broker moves to another NATS server when its own is lost', async (t) => {
  const servers = await startNatsCluster(t, 3);
  const options = (n) => ({ nats: { name: `b${n}` } });
  const order = (n) => [servers[n], ...servers.filter((_, other) => other !== n)];
  const brokers = await Promise.all([0, 1, 2].map((n) => startBroker(t, order(n), options(n))));
  await acquainted(brokers);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  await answering(t, 'addon', brokers[1], 'one', (response) => response.send(1));
  await answering(t, 'addon', brokers[2], 'two', (response) => response.send(2));
  const asks = async () => {
    for (const [id, expected] of [
      ['one', 1],
      ['two', 2],
    ]) {
      // NATS servers propagate subscriptions with a delay.
      await until(async () => {
        const answer = await asker.request(0, id).catch(({ code }) => ({ code }));
        return answer.message === expected;
      });
    }
  };
  await asks();
  await servers[1].kill();
  await asks();
  t.is(brokers[0].stats().cluster.brokers, 3);
});

test('a draining broker sends its clients away, and they are reachable on their next broker', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[1], 'asker');
  const client = await answering(t, 'addon', brokers[0], 'x', (response) => response.send('here'));
  t.is((await asker.request(1, 'x')).message, 'here');
  const told = once(client, 'goaway');
  const closed = brokers[0].close({ drain: 5000 });
  await told;
  // The client is reachable until it has left.
  t.is((await asker.request(1, 'x')).message, 'here');
  await client.close();
  await answering(t, 'addon', brokers[1], 'x', (response) => response.send('there'));
  await closed;
  t.is((await asker.request(1, 'x')).message, 'there');
  await until(() => brokers[1].cluster.brokers().length === 1);
  t.deepEqual(brokers[1].cluster.brokers(), ['b1']);
});

test('brokers speak TLS with NATS, with a client certificate if it is required', async (t) => {
  const { ca, issue } = authority();
  const cases = [
    [issue(), { ca }],
    [
      { ...issue(), ca },
      { ca, ...issue() },
    ],
  ];
  for (const [there, here] of cases) {
    const nats = await startNats(t, { tls: there });
    const brokers = await Promise.all(
      ['b0', 'b1'].map((name) => startBroker(t, nats, { nats: { name, tls: here } })),
    );
    const a = await join(t, 'addon', brokers[0], 'a');
    await answering(t, 'addon', brokers[1], 'b', (response) => response.send('b'));
    t.is((await a.request(1, 'b')).message, 'b');
    const { ready } = new WSMsgBroker.Server({
      port: 0,
      host: '127.0.0.1',
      nats: { servers: nats.url, tls: { ca: authority().ca }, required: true, timeout: 1000 },
    });
    t.is((await t.throwsAsync(ready)).code, 'ERR_WSMB_CLUSTER');
  }
});

test('brokers authenticate to NATS by password, token and key', async (t) => {
  const { createNkey } = require('./support/nkey');
  const key = createNkey();
  const cases = [
    [
      { user: 'u', pass: 'p' },
      { user: 'u', pass: 'p' },
    ],
    [{ token: 'secret' }, { token: 'secret' }],
    [{ nkey: key.publicKey }, { nkey: key.seed }],
  ];
  for (const [there, here] of cases) {
    const nats = await startNats(t, there);
    const broker = await startBroker(t, nats, { nats: { ...here, timeout: 20_000 } });
    t.true(broker.stats().cluster.connected);
    const { ready } = new WSMsgBroker.Server({
      port: 0,
      host: '127.0.0.1',
      nats: { servers: nats.url, required: true, timeout: 1000 },
    });
    t.is((await t.throwsAsync(ready)).code, 'ERR_WSMB_CLUSTER');
  }
});

test('without NATS, local traffic continues and remote requests fail at once', async (t) => {
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
  t.deepEqual(await receiptCodes(a.deliver(1, ['near', 'far'])), {
    delivered: ['near'],
    failed: { far: 'CLUSTER_DOWN' },
  });
  t.deepEqual(await a.request(1, 'near'), { from: 'near', message: 'near' });
  const warned = [];
  brokers[0].on('warn', (id) => warned.push(id));
  const before = brokers[0].stats().cluster.unreachable;
  for (let n = 0; n < 3; n += 1) a.send(n, 'far');
  await a.request(1, 'near');
  t.is(brokers[0].stats().cluster.unreachable - before, 3);
  // A client that registers during the outage is reachable afterwards.
  await answering(t, 'addon', brokers[1], 'late', (response) => response.send('late'));
  const up = brokers.map((broker) => state(broker, 'connected'));
  // The owner of an id may not have subscribed again yet.
  const unsure = up[0].then(() => failure(a.request(1, 'nobody')));
  await nats.start();
  await Promise.all(up);
  t.is((await unsure).code, 'CLUSTER_DOWN');
  t.deepEqual(await a.request(1, 'far'), { from: 'far', message: 'far' });
  t.deepEqual(await a.request(1, 'late'), { from: 'late', message: 'late' });
  t.deepEqual(warned, []);
  const warning = once(brokers[0], 'warn');
  let code;
  do {
    ({ code } = await failure(a.request(1, 'nobody')));
  } while (code === 'CLUSTER_DOWN');
  t.is(code, 'UNKNOWN_ID');
  t.regex((await warning).join(), /nobody/);
});

test('after a partition, the newest registration of an id owns it', async (t) => {
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

test('after a partition, the first of two principals keeps an id', async (t) => {
  const authenticate = ({ token }) => ({ principal: token });
  const { nats, brokers } = await startCluster(t, 2, { authenticate });
  const down = brokers.map((broker) => state(broker, 'disconnected'));
  await nats.kill();
  await Promise.all(down);
  await join(t, 'addon', brokers[0], 'x', { token: 'alice' });
  const second = await join(t, 'addon', brokers[1], 'x', { token: 'bob' });
  const lost = refused(second);
  await nats.start();
  t.deepEqual(await lost, ['ERR_WSMB_CONFLICT', 4409]);
  t.deepEqual(
    brokers.map((broker) => broker.has('x')),
    [true, false],
  );
});

test('a server without permissions at NATS behaves as one without NATS', async (t) => {
  const nats = await startNats(t, {
    config: `authorization: { users: [{
      user: u, password: p, permissions: { publish: "else.>", subscribe: "else.>" }
    }] }`,
  });
  const options = { servers: nats.url, user: 'u', pass: 'p' };
  const required = new WSMsgBroker.Server({
    port: 0,
    host: '127.0.0.1',
    nats: { ...options, required: true, timeout: 1500 },
  });
  const error = await t.throwsAsync(required.ready);
  t.is(error.code, 'ERR_WSMB_CLUSTER');
  t.regex(error.message, /permissions violation/i);
  const server = await startServer(t, { nats: options });
  const [state, reason] = await once(server, 'cluster');
  t.is(state, 'failed');
  t.regex(reason, /permissions violation/i);
  t.false(server.stats().cluster.connected);
  await answering(t, 'addon', server, 'b', (response) => response.send(1));
  const a = await join(t, 'addon', server, 'a');
  t.deepEqual(await a.request(1, 'b'), { from: 'b', message: 1 });
});

test('a server with required NATS rejects `ready` with the reason if NATS is unreachable', async (t) => {
  const server = new WSMsgBroker.Server({
    port: 0,
    host: '127.0.0.1',
    nats: { servers: 'nats://127.0.0.1:1', required: true, timeout: 300 },
  });
  const error = await t.throwsAsync(server.ready);
  t.is(error.code, 'ERR_WSMB_CLUSTER');
  t.regex(error.message, /NATS/);
});

test('a server with optional NATS serves its local clients and keeps connecting', async (t) => {
  const server = await startServer(t, { nats: { servers: ['nats://127.0.0.1:1'] } });
  const failed = await once(server, 'cluster');
  t.is(failed[0], 'failed');
  await answering(t, 'addon', server, 'b', (response) => response.send(1));
  const a = await join(t, 'addon', server, 'a');
  t.deepEqual(await a.request(1, 'b'), { from: 'b', message: 1 });
  t.is((await failure(a.request(1, 'elsewhere'))).code, 'CLUSTER_DOWN');
  t.regex(urlOf(server), /^ws/);
});
