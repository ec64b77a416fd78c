'use strict';

// Tests of the benchmark itself: when a scenario fails, when a target is met, and what the charts show. The
// benchmark: `npm run bench`.

const { EventEmitter } = require('node:events');
const test = require('ava');
const Process = require('../benches/api/process');
const cluster = require('../benches/cluster/targets');
const scenarios = require('../benches/api/scenarios');
const { charts, lines, percentiles } = require('../benches/driver/plot');
const { judge, targets } = require('../benches/driver/targets');

const sum = (median, spread = 0) => ({ median, min: median - spread, max: median + spread });

/** Rows of the pipelined scenario with messages of 100 bytes. */
function flows(cpus, rates, busy = 0.5) {
  return Object.entries(rates).map(([rival, rate]) => ({
    rival,
    cpus,
    size: 100,
    messages_per_second: sum(rate),
    cpu_us_per_message: sum(1e6 / rate),
    saturation: sum(rival === 'wsmsgbroker' ? busy : 0.1),
  }));
}

/** The result of one measure in the report. */
function verdictOf(results, measure) {
  const rows = judge(results).filter((row) => row.measure === measure);
  if (rows.length !== 1) throw new Error(`${rows.length} rows for ${measure}`);
  return rows[0];
}

test('the ratio of medians decides whether a target is exceeded, met or missed', (t) => {
  const verdict = (rate) =>
    verdictOf(
      { pipelined: flows('pinned', { wsmsgbroker: rate, ws8: 100 }) },
      'pipelined 100 B to ws8',
    );
  t.like(verdict(2499), { verdict: 'missed', target: 'at least 25x', beyond: 'at least 40x' });
  t.like(verdict(2500), { verdict: 'met', measured: '25x' });
  t.like(verdict(3999), { verdict: 'met' });
  t.like(verdict(4000), { verdict: 'beyond', measured: '40x' });
});

test('for measures where less is better the ratio is inverted', (t) => {
  const measure = 'CPU a message, 100 B, to ws8';
  const verdict = (rate) =>
    verdictOf({ pipelined: flows('pinned', { wsmsgbroker: rate, ws8: 100 }) }, measure).verdict;
  t.deepEqual([1900, 2100, 3600].map(verdict), ['missed', 'met', 'beyond']);
});

test('rows with separate processors are judged, rows with shared processors are listed beside them, never mixed', (t) => {
  const measure = 'pipelined 100 B to ws8';
  const apart = flows('pinned', { wsmsgbroker: 3000, ws8: 100 });
  const shared = flows('shared', { wsmsgbroker: 8000, ws8: 200 });
  t.like(verdictOf({ pipelined: [...shared, ...apart] }, measure), {
    measured: '30x',
    shared: '40x',
    verdict: 'met',
  });
  const mixed = [apart[0], shared[1]];
  t.like(verdictOf({ pipelined: mixed }, measure), { verdict: 'not measured' });
});

test('a row whose load generator was saturated is not judged', (t) => {
  const measure = 'pipelined 100 B to ws8';
  const apart = flows('pinned', { wsmsgbroker: 3000, ws8: 100 }, 0.95);
  t.like(verdictOf({ pipelined: apart }, measure), { measured: '30x', verdict: 'not measured' });
  const shared = flows('shared', { wsmsgbroker: 8000, ws8: 200 });
  t.like(verdictOf({ pipelined: [...apart, ...shared] }, measure), {
    measured: '30x',
    shared: '40x',
    verdict: 'beyond',
    note: 'shared: the load was at its limit',
  });
});

test('a row without a measurement is not judged', (t) => {
  const empty = judge({});
  t.true(empty.length > 25);
  t.deepEqual([...new Set(empty.map((row) => row.verdict))], ['not measured']);
  const half = { pairs200: [{ rival: 'ws8', messages_per_second: sum(5) }] };
  t.is(verdictOf(half, '200 pairs, one in flight, to ws8').verdict, 'not measured');
  t.true(targets({}).endsWith(`\n\n${empty.length} not measured.`));
});

test('growth compares the smallest number with the largest, and the table names both', (t) => {
  const row = (connections, rate) => ({
    rival: 'wsmsgbroker',
    connections,
    messages_per_second: sum(rate),
  });
  const growth = [row(10_000, 80), row(10, 100), row(5000, 95)];
  t.like(verdictOf({ growth }, 'throughput with many connections'), {
    measured: '0.8x',
    verdict: 'met',
    note: '10,000 against 10',
  });
  t.is(
    verdictOf({ growth: [row(10, 100)] }, 'throughput with many connections').verdict,
    'not measured',
  );
});

test('throughput derived from time per message is inverted', (t) => {
  const ids = [
    { rival: 'wsmsgbroker', ids: 10, any_ns: sum(100), hot_ns: sum(100) },
    { rival: 'wsmsgbroker', ids: 500_000, any_ns: sum(400), hot_ns: sum(105) },
  ];
  t.like(verdictOf({ ids }, 'routing with many ids, all of them used'), {
    measured: '0.25x',
    verdict: 'missed',
  });
  t.is(verdictOf({ ids }, 'routing with many ids, 16 of them used').verdict, 'beyond');
});

test('the age of the latest message is judged by its worst round', (t) => {
  const stall = [{ rival: 'wsmsgbroker', share: sum(0.9), longest_gap_ms: sum(15, 10) }];
  t.like(verdictOf({ stall }, 'latest message while JavaScript blocks'), {
    measured: '25 ms',
    verdict: 'missed',
  });
  t.is(verdictOf({ stall }, 'throughput while JavaScript blocks').verdict, 'met');
});

test('a ratio without a target is reported', (t) => {
  const api = ['wsmsgbroker', 'ws8'].map((rival, index) => ({
    rival,
    scenario: 'ping',
    layout: 'one',
    p50_us: sum(60 - 10 * index),
  }));
  t.like(verdictOf({ api }, 'API, one process: ping p50 to ws8'), {
    measured: '1.2x',
    verdict: 'reported',
  });
});

test('a cluster is compared with NATS, with one broker and by its latency', (t) => {
  const flow = (rival, rate, sender_us, receiver_us) => ({
    ...flows('pinned', { [rival]: rate })[0],
    sender_us: sum(sender_us),
    receiver_us: sum(receiver_us),
  });
  const request = (rival, p50) => ({ rival, cpus: 'pinned', p50_us: sum(p50) });
  const results = {
    flow: [
      flow('single', 1000, 1),
      flow('cluster-1', 899, 1),
      flow('cluster-2', 900, 2),
      flow('cluster-2-apart', 300, 5, 7),
      flow('nats', 600, 3),
    ],
    request: [request('cluster-2', 100), request('cluster-2-apart', 251), request('nats', 100)],
  };
  const rows = judge(results, cluster.TARGETS);
  const expected = {
    'between two brokers, 100 B, to nats': ['0.5x', 'beyond'],
    "CPU at the sender's broker, 100 B, to local": ['2.5x', 'met'],
    "CPU at the receiver's broker, 100 B, to local": ['3.5x', 'missed'],
    'local in a cluster, 100 B, to single': ['0.9x', 'missed'],
    'p50 across brokers to two of nats and a local hop': ['1x', 'missed'],
    'p50 across brokers to socketio-apart': ['', 'not measured'],
  };
  for (const [measure, [measured, verdict]] of Object.entries(expected)) {
    t.like(
      rows.find((row) => row.measure === measure),
      { measured, verdict },
      measure,
    );
  }
});

test('the table has a line for each target', (t) => {
  const text = targets({ pipelined: flows('pinned', { wsmsgbroker: 3000, ws8: 100 }) });
  const [head, rule, ...rows] = text.split('\n\n')[0].split('\n');
  t.is(head, '| measure | target | beyond | measured | shared | verdict |');
  t.is(rows.length, judge({}).length);
  const columns = (line) => line.split('|').length;
  t.deepEqual([...new Set([head, rule, ...rows].map(columns))], [8]);
  t.true(rows[0].startsWith('| pipelined 100 B to ws8 | at least 25x | at least 40x | 30x |'));
});

const x = { field: 'size', label: 'bytes' };
const y = { field: 'messages_per_second', label: 'messages a second' };

/** Pairs of coordinates of a polyline. */
const path = (svg) =>
  svg
    .match(/<polyline points="([^"]*)"/)[1]
    .split(' ')
    .map((place) => place.split(',').map(Number));

test('a line connects the medians, larger values higher, sizes from left to right', (t) => {
  const rows = [1024, 100, 16_384].map((size) => ({
    rival: 'ws8',
    size,
    messages_per_second: sum(1e8 / size),
  }));
  const places = path(lines({ title: 'a', rows, x, y }));
  t.is(places.length, 3);
  const [across, down] = [places.map(([left]) => left), places.map(([, top]) => top)];
  t.deepEqual(
    across,
    across.toSorted((a, b) => a - b),
  );
  t.deepEqual(
    down,
    down.toSorted((a, b) => a - b),
  );
  // Logarithmic: the distance from 100 to 1,024 is slightly shorter than from 1,024 to 16,384.
  const ratio = (across[1] - across[0]) / (across[2] - across[1]);
  t.true(Math.abs(ratio - Math.log(10.24) / Math.log(16)) < 0.01, String(ratio));
});

test('a chart has a title, units and a name for each rival, with external text escaped', (t) => {
  const rows = ['ws8', 'wsmsgbroker', '<b>&"'].map((rival) => ({
    rival,
    size: 100,
    messages_per_second: sum(1000, 10),
  }));
  const svg = lines({ title: 'Rate & size', rows, x, y });
  t.regex(svg, /<title>Rate &#38; size<\/title>/);
  for (const words of ['bytes', 'messages a second', '>ws8<', '>wsmsgbroker<', '&#60;b&#62;']) {
    t.true(svg.includes(words), words);
  }
  t.false(svg.includes('<b>'));
  t.notRegex(svg, /NaN|Infinity|undefined/);
  // Equal values, but labels that do not overlap.
  const names = [...svg.matchAll(/y="([\d.]+)" text-anchor="start" fill="#1f2328" >/g)];
  const places = names.map(([, top]) => Number(top)).sort((a, b) => a - b);
  t.is(places.length, 3);
  t.true(places.every((place, n) => n === 0 || place - places[n - 1] >= 14));
});

test('percentiles increase from left to right', (t) => {
  const rows = [{ rival: 'bun', p50_us: sum(50), p99_us: sum(200), p999_us: sum(4000) }];
  const svg = percentiles({ title: 'a', rows });
  const marks = [...svg.matchAll(/translate\(([\d.]+) /g)].map(([, left]) => Number(left));
  t.is(marks.length, 3);
  t.deepEqual(
    marks,
    marks.toSorted((a, b) => a - b),
  );
  t.true(svg.includes('microseconds'));
});

test('charts show measured values only', (t) => {
  t.deepEqual(charts({}), {});
  t.is(lines({ title: 'a', rows: [{ rival: 'ws8', size: 100 }], x, y }), null);
  const results = {
    pipelined: flows('shared', { ws8: 100 }),
    request: [{ rival: 'bun', pairs: 8, p50_us: sum(1), p99_us: sum(2), p999_us: sum(3) }],
    idle: [{ rival: 'ws8', connections: 5000, rss_per_connection: sum(9000, 100) }],
  };
  t.deepEqual(Object.keys(charts(results)).sort(), [
    'latency-8.svg',
    'memory.svg',
    'size-shared.svg',
  ]);
});

/** Two clients without a broker. `spoil` may alter, repeat or drop the messages in between. */
function clients(spoil = (message) => [message]) {
  const pass = (message, receive) => setImmediate(() => spoil(message).forEach(receive));
  const client = (id) => Object.assign(new EventEmitter(), { id });
  const [first, second] = [client('first'), client('second')];
  first.send = (message, _dest, callback) => {
    const send = (answer) => pass(answer, (arrived) => callback('second', arrived));
    const response = callback ? { send } : null;
    pass(message, (arrived) => second.emit('message', arrived, response, 'first'));
  };
  return [first, second];
}

for (const name of ['oneway', 'asks', 'ping']) {
  test(`${name} ends when all messages have arrived`, async (t) => {
    let passed = 0;
    const pair = clients((message) => {
      passed += 1;
      return [message];
    });
    const { messages, messages_per_second } = await scenarios[name](...pair, 0.02);
    t.true(messages > 0 && messages_per_second > 0);
    t.is(passed, name === 'oneway' ? messages : 2 * messages);
    t.is(pair[1].listenerCount('message'), 0);
  });

  test(`${name} fails at an altered, repeated or reordered message`, async (t) => {
    let kept;
    const spoilt = {
      altered: (message) => [{ ...message, text: `y${message.text.slice(1)}` }],
      repeated: (message) => [message, message],
      'out of order': (message) => {
        kept ??= { n: message.n + 1, text: message.text };
        return [kept];
      },
    };
    for (const [what, spoil] of Object.entries(spoilt)) {
      await t.throwsAsync(scenarios[name](...clients(spoil), 0.02), undefined, what);
    }
  });
}

test('messages have 100 bytes', async (t) => {
  const lengths = new Set();
  const pair = clients((message) => {
    lengths.add(JSON.stringify(message).length);
    return [message];
  });
  await scenarios.oneway(...pair, 0.01);
  t.deepEqual([...lengths], [100]);
});

test('percentiles are positive and increase', async (t) => {
  const { p50_us, p99_us, p999_us } = await scenarios.ping(...clients(), 0.05);
  t.true(p50_us > 0 && p50_us <= p99_us && p99_us <= p999_us);
});

test('the error of a process that ends without an answer contains the reason', async (t) => {
  const child = new Process('worker.js', 'nobody', 'both');
  await t.throwsAsync(child.ask('start'), { message: /worker nobody both: .*TypeError/s });
});
