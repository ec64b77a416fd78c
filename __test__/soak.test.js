'use strict';

// Tests of the soak test itself: it must detect violations, and nothing else. The soak test: `npm run soak`.

const test = require('ava');
const chart = require('../soak/chart');
const { Ledger } = require('../soak/ledger');
const { DEADLINE } = require('../soak/limits');
const Random = require('../testkit/random');
const { judge } = require('../soak/report');
const { line, minima } = require('../soak/statistics');

/** The violations that a ledger reports after `play`. */
function violationsOf(play) {
  const violations = [];
  const ledger = new Ledger((what) => violations.push(what));
  play(ledger.stream('here'), ledger);
  return violations;
}

test('a ledger reports nothing for messages that arrive once, in order and unaltered', (t) => {
  const violations = violationsOf((stream, ledger) => {
    const messages = [10, 0, 50_000].map((length) => stream.next(length));
    for (const message of messages) stream.arrive(JSON.parse(JSON.stringify(message)));
    ledger.check(Date.now() + 2 * DEADLINE);
    t.is(ledger.arrived, 3);
  });
  t.deepEqual(violations, []);
});

test('a ledger reports lost, repeated, reordered, altered, unknown and late messages', (t) => {
  const breaches = {
    lost(stream) {
      stream.next();
      stream.arrive(stream.next());
    },
    repeated(stream) {
      const message = stream.next();
      stream.arrive(message);
      stream.arrive(message);
    },
    outOfOrder(stream) {
      const [first, second] = [stream.next(), stream.next()];
      stream.arrive(second);
      stream.arrive(first);
    },
    altered(stream) {
      const message = stream.next(20);
      stream.arrive({ ...message, text: `${message.text.slice(1)}x` });
    },
    unknown(stream) {
      stream.arrive({ n: 1, length: 0, text: '' });
    },
    late(stream, ledger) {
      stream.next();
      ledger.check(Date.now() + DEADLINE + 1);
    },
  };
  for (const [name, breach] of Object.entries(breaches))
    t.true(violationsOf(breach).length > 0, name);
});

test('the minimum of each window is kept with its time', (t) => {
  const points = [
    [0.1, 5],
    [0.9, 3],
    [1.2, 7],
    [2.5, 4],
    [2.6, 1],
  ];
  t.deepEqual(minima(points, 1), [
    [0.9, 3],
    [1.2, 7],
    [2.6, 1],
  ]);
});

test('a fitted line has the slope of its points and the error of their noise', (t) => {
  const exact = line(Array.from({ length: 10 }, (_, x) => [x, 3 + 2 * x]));
  t.true(Math.abs(exact.slope - 2) < 1e-9);
  t.true(Math.abs(exact.intercept - 3) < 1e-9);
  t.true(exact.error < 1e-9);
  // Correlated neighbours carry less information: equal values in blocks have a larger error than alternating
  // ones.
  const at = (value) => line(Array.from({ length: 40 }, (_, x) => [x, value(x)]));
  t.true(at((x) => (x >> 2) % 2).error > 1.5 * at((x) => x % 2).error);
});

/** Counters of an idle server, with these changes. */
function counters(more) {
  const none = { connections: 0, registered: 0, pending: 0, dead: 0, denied: 0, unregistered: 0 };
  return { ...none, ...more };
}

/** A run of one hour with the memory given by `resident`. */
function run(resident, { after = {}, failures = [], met = {} } = {}) {
  const state = {
    resident: 60 * MIB,
    heap: 4 * MIB,
    threads: 9,
    descriptors: ['pipe', 'socket'],
    stats: { plain: counters(), secure: counters() },
  };
  const samples = Array.from({ length: 720 }, (_, index) => {
    const minute = index / 12;
    return { ...state, minute, resident: resident(minute) };
  });
  return { minutes: 60, samples, failures, met, before: state, after: { ...state, ...after } };
}

const KIB = 1024;
const MIB = 1024 * KIB;

/** Bursts of up to 20 MiB above a base that drifts by about 100 KiB. */
function noisy(seed, trend = 0) {
  const random = new Random(seed, 'noise');
  let drift = 0;
  return (minute) => {
    drift = 0.95 * drift + 30 * KIB * (random.next() - 0.5);
    return 60 * MIB + trend * minute + drift + (random.chance(0.5) ? random.int(0, 20 * MIB) : 0);
  };
}

const passed = (results) => judge(results).checks.every((check) => check.passed);

test('a broker with stable memory passes, and one that leaks fails', (t) => {
  for (let seed = 0; seed < 10; seed += 1) {
    t.true(passed(run(noisy(seed))), `${seed}`);
    t.false(passed(run(noisy(seed, 100 * KIB))), `${seed}`);
  }
});

test('entries left in tables, descriptors or threads fail a run, and so does a violation in the ledger', (t) => {
  const steady = noisy(1);
  for (const server of ['plain', 'secure']) {
    const left = { plain: counters(), secure: counters(), [server]: counters({ registered: 1 }) };
    t.false(passed(run(steady, { after: { stats: left } })), server);
  }
  t.false(passed(run(steady, { after: { descriptors: ['pipe', 'socket', 'socket'] } })));
  t.false(passed(run(steady, { after: { threads: 10 } })));
  t.false(passed(run(steady, { failures: ['one was lost'] })));
});

test('dead, denied and lost clients must be counted exactly as often as they were played', (t) => {
  const steady = noisy(1);
  const stats = { plain: counters({ dead: 2 }), secure: counters({ denied: 3, unregistered: 1 }) };
  const met = { plain: { dead: 2 }, secure: { denied: 3, unregistered: 1 } };
  t.true(passed(run(steady, { after: { stats }, met })));
  t.false(passed(run(steady, { after: { stats }, met: { ...met, plain: {} } })));
  t.false(passed(run(steady, { after: { stats }, met: { ...met, secure: { denied: 4 } } })));
  t.false(passed(run(steady, { met })));
});

test('a short run does not judge memory', (t) => {
  const { samples, ...rest } = run(noisy(1));
  const short = { ...rest, minutes: 10, samples: samples.filter(({ minute }) => minute < 10) };
  const { checks } = judge(short);
  t.deepEqual([...new Set(checks.map((check) => check.passed))].sort(), [null, true]);
});

test('a chart has a point for each sample, and a line for the slope if there is one', (t) => {
  const points = Array.from({ length: 100 }, (_, index) => [index / 12, 50 + index / 100]);
  const plain = {
    title: '',
    memory: points,
    descriptors: points,
    lowest: [],
    fit: null,
    warmUp: 2,
  };
  const bold = /stroke-width="2"/g;
  const svg = chart(plain);
  const polylines = [...svg.matchAll(/<polyline points="([^"]+)"/g)];
  t.deepEqual(
    polylines.map(([, places]) => places.split(' ').length),
    [100, 100],
  );
  t.is([...svg.matchAll(bold)].length, 0);
  const fitted = chart({ ...plain, fit: { slope: 1, intercept: 50 } });
  t.is([...fitted.matchAll(bold)].length, 1);
  t.notRegex(fitted, /NaN|undefined|Infinity/);
});
