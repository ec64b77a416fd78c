'use strict';

// Topics in a cluster: groups of workers with members at several brokers, and requests to topics.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const test = require('ava');
const { aborted, awaited, failure, join, kinds, settled } = require('./support/clients');
const { acquainted, startBroker, startCluster, state } = require('./support/cluster');
const { startNats } = require('../testkit/nats');

const BROKER = path.join(__dirname, '..', 'soak', 'cluster', 'broker.js');
const JOBS = 200;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when the condition holds. */
async function until(isTrue) {
  while (!(await isTrue())) await pause(10);
}

/** Lists whose subscription is known at all brokers. */
const known = new WeakSet();

/** A listener that adds messages to a list. */
const into = (list) => (message) => {
  if (message === 'ready') known.add(list);
  else list.push(message);
};

/** A member of a group. `seen`: the messages that it has handled, each time. */
async function worker(t, kind, broker, id, topic, options) {
  const client = await join(t, kind, broker, id);
  const jobs = await client.subscribe(topic, { group: 'g', ...options });
  const seen = [];
  jobs.on('message', into(seen));
  return { client, jobs, seen };
}

/** Publishes until a message has come to each of these lists. */
async function reached(publisher, topic, lists) {
  await until(async () => {
    publisher.publish('ready', topic);
    await pause(5);
    return lists.every((list) => known.has(list));
  });
}

/** The codes of failures, by id. */
const codes = ({ failed }) => Object.fromEntries([...failed].map(([id, { code }]) => [id, code]));
const numbers = (from, count) => Array.from({ length: count }, (_, n) => from + n);
const sorted = (...lists) => lists.flat().sort((a, b) => a - b);

for (const kind of kinds) {
  test(`${kind}: a member of each group gets a message, wherever it is published`, async (t) => {
    const { brokers } = await startCluster(t, 3);
    // None waits: other brokers would take it.
    const start = (n, id, topic) => worker(t, kind, brokers[n], id, topic, { window: 1000 });
    const [a, b, c, d] = await Promise.all([
      start(0, 'a', 'jobs.*'),
      start(0, 'b', 'jobs.*'),
      start(1, 'c', 'jobs.*'),
      start(1, 'd', 'jobs.*'),
    ]);
    // Another group with this name.
    const other = await start(1, 'other', 'jobs.>');
    // At the broker of a group, and with a pattern of its own.
    const plain = await join(t, kind, brokers[1], 'plain');
    const heard = [];
    for (const topic of ['jobs.*', 'jobs.x']) {
      const subscription = await plain.subscribe(topic);
      if (topic === 'jobs.*') subscription.on('message', into(heard));
    }
    const [near, far] = await Promise.all([
      join(t, kind, brokers[0], 'near'),
      join(t, kind, brokers[2], 'far'),
    ]);
    const all = [a, b, c, d, other].map(({ seen }) => seen);
    await reached(far, 'jobs.x', [...all, heard]);

    // Published at a broker without members. Messages in a row go to the same broker.
    for (const n of numbers(0, JOBS)) {
      far.publish(n, 'jobs.x');
      if (n % 10 === 0) await pause(1);
    }
    await until(() => sorted(...all.slice(0, 4)).length >= JOBS && other.seen.length >= JOBS);
    await until(() => heard.length >= JOBS);
    await pause(100);
    t.deepEqual(sorted(...all.slice(0, 4)), numbers(0, JOBS));
    t.deepEqual(other.seen, numbers(0, JOBS));
    t.deepEqual(heard, numbers(0, JOBS));
    t.true(
      [a, c].every(({ seen }) => seen.length > 0),
      'both brokers have work',
    );
    for (const seen of [...all, heard]) seen.length = 0;

    // Published at a broker with members: these get it.
    for (const n of numbers(0, JOBS)) near.publish(n, 'jobs.x');
    await until(() => sorted(a.seen, b.seen).length >= JOBS && other.seen.length >= JOBS);
    await until(() => heard.length >= JOBS);
    await pause(100);
    t.deepEqual(sorted(a.seen, b.seen), numbers(0, JOBS));
    t.deepEqual([c.seen, d.seen], [[], []]);
    t.deepEqual(sorted(other.seen), numbers(0, JOBS));
    t.deepEqual(sorted(heard), numbers(0, JOBS));
    const receipt = await near.deliver(1, { topic: 'jobs.x' });
    t.deepEqual(receipt, { queued: 1, dropped: 0, elsewhere: 'sent' });
  });
}

test('messages that wait when the last member of a broker leaves go to another broker', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const leaving = await join(t, 'addon', brokers[0], 'leaving');
  const first = await leaving.subscribe('jobs', { group: 'g', window: 1 });
  const got = first.messages();
  const stays = await worker(t, 'addon', brokers[1], 'stays', 'jobs');
  const publisher = await join(t, 'addon', brokers[0], 'publisher');
  const far = await join(t, 'addon', brokers[1], 'far');
  await reached(far, 'jobs', [stays.seen]);
  for (const n of numbers(0, JOBS)) publisher.publish(n, 'jobs');
  t.is((await got.next()).value.message, 0);
  await leaving.close();
  await until(() => stays.seen.length >= JOBS - 1);
  await pause(50);
  t.deepEqual(sorted(stays.seen), numbers(1, JOBS - 1));
});

test('busy and paused workers at the broker of a publisher do not hold it up', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const paused = await worker(t, 'addon', brokers[0], 'paused', 'jobs');
  const stays = await worker(t, 'addon', brokers[1], 'stays', 'jobs');
  const publisher = await join(t, 'addon', brokers[0], 'publisher');
  const far = await join(t, 'addon', brokers[1], 'far');
  await reached(far, 'jobs', [stays.seen]);
  paused.jobs.pause();
  // Behind the frame of the pause.
  await failure(paused.client.request(1, 'nobody'));
  const messages = numbers(0, 1500);
  for (const n of messages) publisher.publish(n, 'jobs');
  await until(() => stays.seen.length >= messages.length);
  await pause(50);
  t.deepEqual(stays.seen, messages);
  t.deepEqual(paused.seen, []);
  // A message that waits at the only broker waits for its member.
  await stays.jobs.unsubscribe();
  publisher.publish('last', 'jobs');
  await pause(600);
  t.deepEqual(paused.seen, []);
  paused.jobs.resume();
  await until(() => paused.seen.length > 0);
  t.deepEqual(paused.seen, ['last']);
});

test('members that come and go at two brokers handle each message once', async (t) => {
  const { brokers } = await startCluster(t, 3);
  const far = await join(t, 'addon', brokers[2], 'far');
  const stays = await worker(t, 'addon', brokers[0], 'stays', 'jobs');
  const comes = await worker(t, 'addon', brokers[1], 'comes', 'jobs');
  // On their way when it leaves.
  comes.client.on('message', into(comes.seen));
  await reached(far, 'jobs', [stays.seen, comes.seen]);
  let n = 0;
  for (let round = 0; round < 20; round += 1) {
    for (let count = 0; count < 25; count += 1) {
      far.publish(n, 'jobs');
      n += 1;
    }
    await pause(5);
    if (round % 2 === 0) {
      await comes.jobs.unsubscribe();
    } else {
      comes.jobs = await comes.client.subscribe('jobs', { group: 'g' });
      comes.jobs.on('message', into(comes.seen));
    }
  }
  await until(() => stays.seen.length + comes.seen.length >= n);
  await pause(100);
  t.deepEqual(sorted(stays.seen, comes.seen), numbers(0, n));
});

test('after a broker was killed, the members at another one get all messages', async (t) => {
  const nats = await startNats(t);
  const options = (name) => ({ nats: { namespace: 'soak', name } });
  const brokers = await Promise.all(
    ['b0', 'b1'].map((name) => startBroker(t, nats, options(name))),
  );
  const child = fork(BROKER, ['killed', nats.url]);
  t.teardown(() => child.kill('SIGKILL'));
  const [{ port }] = await once(child, 'message');
  await until(() => brokers[0].cluster.brokers().length === 3);
  const there = await worker(t, 'addon', { address: () => ({ port }) }, 'there', 'jobs');
  there.client.on('error', () => {});
  const stays = await worker(t, 'addon', brokers[1], 'stays', 'jobs');
  const publisher = await join(t, 'addon', brokers[0], 'publisher');
  await reached(publisher, 'jobs', [there.seen, stays.seen]);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await acquainted(brokers);
  for (const n of numbers(0, JOBS)) publisher.publish(n, 'jobs');
  await until(() => stays.seen.length >= JOBS);
  await pause(50);
  t.deepEqual(stays.seen, numbers(0, JOBS));
});

/** A subscriber that answers requests by this function. */
async function answers(t, kind, broker, id, topic, answer, options) {
  const client = await join(t, kind, broker, id);
  const subscription = await client.subscribe(topic, options);
  subscription.on('message', (message, response) => response && answer(response, message));
  return { client, subscription };
}

for (const kind of kinds) {
  test(`${kind}: a request to a topic asks the subscribers at all brokers`, async (t) => {
    const { brokers } = await startCluster(t, 3);
    const asker = await join(t, kind, brokers[0], 'asker');
    const topic = { topic: 'question.x' };
    t.is((await failure(asker.request(1, topic))).code, 'NO_SUBSCRIBER');
    t.deepEqual(codes(await asker.requestAll(1, topic)), { 'question.x': 'NO_SUBSCRIBER' });
    await answers(t, kind, brokers[1], 'a', 'question.*', (response, n) => response.send(n + 1));
    t.deepEqual(await asker.request(1, topic), { from: 'a', message: 2 });
    await answers(t, kind, brokers[2], 'b', 'question.x', (response, n) => response.send(n + 2));
    await answers(t, kind, brokers[0], 'c', '>', (response, n) => response.send(n + 3));
    const refusing = await answers(t, kind, brokers[1], 'd', '>', (response) =>
      response.reject(Object.assign(new Error('no'), { code: 'NO' })),
    );
    for (let round = 0; round < 3; round += 1) {
      const { answers: all, failed } = await asker.requestAll(1, topic);
      t.deepEqual(new Map([...all].sort()), new Map([...'abc'].map((id, n) => [id, n + 2])));
      t.deepEqual(codes({ failed }), { d: 'NO' });
    }
    await refusing.client.close();
    const first = await asker.request(1, topic);
    t.is(first.message, 'abc'.indexOf(first.from) + 2);
    t.is(awaited(asker), 0);
    for (const broker of brokers) await settled(broker);
  });

  test(`${kind}: a request to a topic is cancelled, fails and expires at other brokers`, async (t) => {
    const { brokers } = await startCluster(t, 2);
    const asker = await join(t, kind, brokers[0], 'asker');
    const topic = { topic: 'slow' };
    const asked = [];
    const other = await answers(t, kind, brokers[1], 'a', 'slow', (response) =>
      asked.push(response),
    );
    const canceller = new AbortController();
    const cancelled = failure(asker.request(1, topic, { signal: canceller.signal }));
    await until(() => asked.length === 1);
    canceller.abort();
    await cancelled;
    t.is(await aborted(asked[0].signal), 'ERR_WSMB_CANCELLED');
    t.is((await failure(asker.request(1, topic, { timeout: 300 }))).code, 'TIMEOUT');
    await until(() => asked.length === 2);
    await aborted(asked[1].signal);
    // The first answer cancels the others.
    const leaving = await answers(t, kind, brokers[1], 'b', 'slow', (response, n) => {
      if (n === 3) response.send('b');
    });
    t.is((await asker.request(3, topic)).from, 'b');
    await until(() => asked.length === 3);
    await aborted(asked[2].signal);
    const late = asker.requestAll(4, topic, { timeout: 500 });
    await until(() => asked.length === 4);
    asked[3].send('a');
    t.deepEqual([...(await late).answers], [['a', 'a']]);
    const lost = asker.requestAll(5, topic);
    await until(() => asked.length === 5);
    await other.client.close();
    await leaving.client.close();
    t.deepEqual(codes(await lost), { a: 'GONE', b: 'GONE' });
    for (const broker of brokers) await settled(broker);
  });

  test(`${kind}: a request to a group is answered by one member, at any broker`, async (t) => {
    const { brokers } = await startCluster(t, 3);
    const asker = await join(t, kind, brokers[0], 'asker');
    const topic = { topic: 'jobs' };
    const asked = [];
    const member = (n, id) =>
      answers(
        t,
        kind,
        brokers[n],
        id,
        'jobs',
        (response, message) => {
          asked.push(message);
          setTimeout(() => response.send(id), 2);
        },
        { group: 'g', window: 1 },
      );
    await member(1, 'a');
    await member(1, 'b');
    await member(2, 'c');
    const outcomes = await Promise.all(numbers(0, 100).map((n) => asker.request(n, topic)));
    t.deepEqual(sorted(asked), numbers(0, 100));
    const from = new Set(outcomes.map((outcome) => outcome.from));
    t.deepEqual([...from].sort(), ['a', 'b', 'c']);
    t.true(outcomes.every((outcome) => outcome.from === outcome.message));
    const { answers: all, failed } = await asker.requestAll(100, topic);
    t.deepEqual([all.size, failed.size], [1, 0]);
    // Those at the asker's broker come first.
    await member(0, 'near');
    t.is((await asker.request(101, topic)).from, 'near');
    // Subscribers are asked, too.
    await answers(t, kind, brokers[1], 'plain', '>', (response) => response.send('plain'));
    const both = await asker.requestAll(102, topic);
    t.deepEqual([...both.answers.keys()].sort(), ['near', 'plain']);
    t.is(awaited(asker), 0);
    for (const broker of brokers) await settled(broker);
  });
}

test('a request that waits in a group at another broker is cancelled, or goes to the next member', async (t) => {
  const { brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  const topic = { topic: 'jobs' };
  const asked = [];
  const options = { group: 'g', window: 1 };
  const busy = await join(t, 'addon', brokers[1], 'busy');
  const jobs = await busy.subscribe('jobs', options);
  const got = jobs.messages();
  const first = asker.request(1, topic);
  const { value } = await got.next();
  const canceller = new AbortController();
  const second = failure(asker.request(2, topic, { signal: canceller.signal }));
  const third = asker.request(3, topic);
  // Longer than the interval of probes: requests that wait are not lost.
  await pause(7000);
  canceller.abort();
  await second;
  await answers(
    t,
    'addon',
    brokers[1],
    'next',
    'jobs',
    (response, n) => {
      asked.push(n);
      response.send('next');
    },
    options,
  );
  t.is((await third).from, 'next');
  t.deepEqual(asked, [3]);
  value.response.send('busy');
  t.is((await first).from, 'busy');
  for (const broker of brokers) await settled(broker);
});

test('a request to a topic fails with the broker of its last subscriber', async (t) => {
  const nats = await startNats(t);
  const options = { nats: { namespace: 'soak', name: 'near' } };
  const near = await startBroker(t, nats, options);
  const child = fork(BROKER, ['killed', nats.url]);
  t.teardown(() => child.kill('SIGKILL'));
  const [{ port }] = await once(child, 'message');
  await until(() => near.cluster.brokers().length === 2);
  const asker = await join(t, 'addon', near, 'asker');
  const far = { address: () => ({ port }) };
  const asked = [];
  const ask = (response) => asked.push(response);
  for (const [id, group] of [
    ['plain', {}],
    ['member', { group: 'g' }],
  ]) {
    const { client } = await answers(t, 'addon', far, id, 'jobs', ask, group);
    client.on('error', () => {});
  }
  const lost = asker.requestAll(1, { topic: 'jobs' });
  await until(() => asked.length === 2);
  // Until the credit for the requests is here, it is not known that a broker has them.
  await pause(200);
  child.kill('SIGKILL');
  await once(child, 'exit');
  t.deepEqual(codes(await lost), { member: 'GONE', plain: 'GONE' });
  // Until the killed broker is missed, its answer is awaited.
  t.is((await failure(asker.request(2, { topic: 'jobs' }))).code, 'NO_SUBSCRIBER');
  await settled(near);
});

test('without NATS, topics reach the subscribers of their broker', async (t) => {
  const { nats, brokers } = await startCluster(t, 2);
  const asker = await join(t, 'addon', brokers[0], 'asker');
  const topic = { topic: 'jobs' };
  await answers(t, 'addon', brokers[1], 'far', 'jobs', (response) => response.send('far'));
  t.is((await asker.request(1, topic)).from, 'far');
  const down = state(brokers[0], 'disconnected');
  await nats.kill();
  await down;
  t.is((await failure(asker.request(2, topic))).code, 'CLUSTER_DOWN');
  await answers(t, 'addon', brokers[0], 'near', 'jobs', (response) => response.send('near'));
  const { answers: all } = await asker.requestAll(3, topic);
  t.deepEqual([...all], [['near', 'near']]);
  const receipt = await asker.deliver(4, topic);
  t.deepEqual(receipt, { queued: 1, dropped: 0, elsewhere: 'down' });
  t.is(awaited(asker), 0);
});
