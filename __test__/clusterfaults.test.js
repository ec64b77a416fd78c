'use strict';

// A cluster under continuous failures. Ten minutes of it: `node soak/cluster.js`.

const test = require('ava');
const { History } = require('../soak/cluster/history');
const Jobs = require('../soak/cluster/jobs');
const Ledger = require('../soak/cluster/ledger');
const Publications = require('../soak/cluster/publications');
const play = require('../soak/cluster/play');

for (const seed of [1, 2]) {
  test.serial(
    `no message is duplicated or lost without a receipt, whatever fails (seed ${seed})`,
    async (t) => {
      t.timeout(180_000);
      const { counts, arrived, happened, faults } = await play({ ms: 15_000, every: 1000, seed });
      t.deepEqual(faults, []);
      t.true(counts['delivered, arrived'] > 1000);
      t.true(arrived > 1000);
      t.true(Object.keys(happened).length > 3);
    },
  );
}

test.serial('topics, groups and presence keep their guarantees, whatever fails', async (t) => {
  t.timeout(180_000);
  const played = await play({
    ms: 7000,
    every: 1000,
    seed: 3,
    clients: 3,
    topics: true,
    rest: 2000,
    // Other tests use the processor, too.
    settled: 30_000,
  });
  t.deepEqual(played.faults, []);
  t.true(played.topics.received > 1000);
  t.true(Object.values(played.groups).reduce((sum, count) => sum + count) > 200);
  t.true(played.presence.comparisons >= 18);
});

test('a ledger reports duplicates, reordering, unsent messages, missing receipts, and lost messages with a receipt', (t) => {
  const ledger = new Ledger();
  const sent = [0, 1, 2, 3].map(() => ledger.send('a', 'b'));
  ledger.got('b', { from: 'a', number: 1 });
  ledger.got('b', { from: 'a', number: 1 });
  ledger.got('b', { from: 'a', number: 0 });
  ledger.got('b', { from: 'a', number: 9 });
  sent[0].settle('UNKNOWN_ID');
  sent[1].settle('delivered');
  sent[1].settle('delivered');
  sent[2].settle('delivered');
  const counts = ledger.close(1000);
  t.deepEqual(counts, {
    'UNKNOWN_ID, arrived': 1,
    'delivered, arrived': 1,
    'delivered, lost': 1,
    'nothing, lost': 1,
  });
  t.deepEqual(
    ledger.faults.map((fault) => fault.replace(/^a to b: /, '')),
    [
      '1 arrived twice',
      '9 was never sent',
      '1 has two receipts',
      '0 arrived after 1',
      '0 has the receipt UNKNOWN_ID, but arrived',
      '2 has the receipt delivered, but is lost',
      '3 has no receipt',
    ],
  );
  const other = new Ledger();
  other.send('a', 'b').settle('delivered');
  other.ended('b');
  t.deepEqual(other.close(1000), { 'delivered, lost': 1 });
  t.deepEqual(other.faults, []);
});

/** A history in which these ids have been connected to these brokers for a minute. */
function steady(brokers) {
  const history = new History();
  const connections = {};
  for (const [id, broker] of Object.entries(brokers)) {
    connections[id] = history.opened(id, broker);
    connections[id].from -= 60_000;
  }
  return { history, ...connections };
}

test('publications: duplicates, altered, reordered and lost messages, and wrong gaps are reported', (t) => {
  const { history, near, far, reader } = steady({ near: 'b0', far: 'b1', reader: 'b0' });
  const publications = new Publications(history);
  const receiver = publications.receiver('reader', 'news.*');
  publications.begun(receiver, reader, 60_000);
  const got = (message, from = 'near', topic = 'news.1') =>
    publications.got(receiver, reader, message, from, topic);
  const sent = Array.from({ length: 6 }, () => publications.send(near, 'news.1', 20));
  const remote = Array.from({ length: 3 }, () => publications.send(far, 'news.2', 20));
  got(sent[1]);
  got(sent[0]);
  got(sent[0]);
  got({ ...sent[2], text: 'other' });
  got({ number: 9, text: '' });
  got(remote[2], 'far', 'news.2');
  publications.gap(receiver, reader, { topic: 'news.1', lost: 1 });
  publications.gap(receiver, reader, { topic: 'news.2', lost: 3 });
  publications.close();
  const found = publications.faults.map((fault) =>
    fault.replace(/, at b0 since \d+|: near news.*\(.*/g, ''),
  );
  t.deepEqual(found, [
    'reader news.*: near news.1 2 was altered',
    'reader news.*: near news.1 9 was never sent to it',
    found[2],
    'reader news.*: near news.1 0 arrived after 1',
    'reader news.*: 3 of news.1 are missing, gaps 1',
    'reader news.*: gaps of 3 of news.2, but at most 2 are missing',
  ]);
  t.regex(publications.faults[2], /near news.1 0 arrived 2 times/);
});

test('publications: what a fault, a change of a connection or a gap explains is counted', (t) => {
  const { history, near, far, reader } = steady({ near: 'b0', far: 'b1', reader: 'b0' });
  const publications = new Publications(history);
  const receiver = publications.receiver('reader', '>');
  publications.begun(receiver, reader, 60_000);
  history.disturb(['b1'])();
  publications.send(far, 'one', 20);
  publications.send(near, 'two', 20);
  publications.gap(receiver, reader, { topic: 'two', lost: 1 });
  let counts = publications.close();
  t.deepEqual(publications.faults, []);
  t.is(counts['lost between brokers, during a fault'], 1);
  t.is(counts['lost, in a gap'], 1);
  // Without a gap it is a fault, unless a connection has changed.
  publications.send(near, 'three', 20);
  publications.close();
  t.is(publications.faults.length, 1);
  history.ended(near);
  publications.faults = [];
  counts = publications.close();
  t.deepEqual(publications.faults, []);
  t.is(counts['lost when a connection changed'], 2);
  // On another connection, to another broker, it may arrive again.
  const next = history.opened('reader', 'b1');
  const again = publications.send(far, 'four', 20);
  for (const connection of [reader, next]) {
    publications.got(receiver, connection, again, 'far', 'four');
  }
  counts = publications.close();
  t.deepEqual(publications.faults, []);
  t.is(counts['received again on another connection, by way of another broker'], 1);
});

test('jobs: what is handled twice, lost, or fails without a fault is reported', (t) => {
  const { history, asker, worker } = steady({ asker: 'b0', worker: 'b1' });
  const jobs = new Jobs(history, ['b0', 'b1']);
  const groups = new Map([['group', ['worker']]]);
  const send = (kind, outcome, attempts) => {
    const job = jobs.send(asker, kind, groups);
    for (const attempt of attempts) jobs.handled(job, 'group', 'worker', attempt);
    if (outcome) jobs.settle(job, outcome);
  };
  const play = () => {
    jobs.faults = [];
    send('published', undefined, [1]);
    send('published', undefined, [1, 1]);
    send('published', undefined, []);
    send('request', 'answered', [1]);
    send('request', 'answered', []);
    send('request', 'GONE', [1]);
    send('request', 'BUSY', [1]);
    send('request', undefined, [1]);
    send('retried', 'answered', [1, 2]);
    send('retried', 'answered', [2, 2]);
    jobs.close();
    return jobs.faults.map((fault) => fault.replace(/^.*\) /, ''));
  };
  t.deepEqual(play(), [
    'was handled twice',
    'was not handled',
    'was not handled',
    'failed without a fault',
    'failed without a fault',
    'has no outcome',
    'was handled twice without a fault',
    'was handled twice in one attempt',
  ]);
  history.ended(worker);
  const near = new Jobs(history, ['b0', 'b1']);
  t.is(near.send(asker, 'published', groups), 0);
  t.deepEqual(near.close(), { 'published, not handled, near a fault': 1 });
  t.deepEqual(near.faults, []);
  jobs.handled(99, 'group', 'worker', 1);
  t.is(jobs.faults.at(-1), 'job 99 was never sent to group');
});
