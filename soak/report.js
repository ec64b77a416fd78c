'use strict';

// Computes a verdict, a report and a chart from samples.

const chart = require('./chart');
const { MIB, integer, mib, table } = require('../testkit/report');
const { line, minima } = require('./statistics');

/** The share of a run after which all memory that is reserved at first is in use. */
const WARM_UP = 1 / 4;
/** Minutes after the warm-up that a slope needs. */
const LEAST_MINUTES = 10;
/** Standard errors above zero at which a slope is significant. */
const SIGNIFICANT = 3;
/** Counters of resources that the servers hold and release. */
const HELD = ['connections', 'registered', 'pending'];
/** Counters that must equal the number of acts that cause them. */
const PLAYED = ['dead', 'denied', 'unregistered'];
const KIB = 1024;

/** Points `[minute, value]` of the samples. */
function series(samples, value) {
  return samples.map((sample) => [sample.minute, value(sample)]);
}

/** The line through the minimum of each whole minute after the warm-up, if there are enough minutes. */
function trend(samples, minutes, value) {
  const [from, to] = [Math.ceil(minutes * WARM_UP), Math.floor(minutes)];
  const whole = samples.filter(({ minute }) => minute >= from && minute < to);
  const lowest = minima(series(whole, value), 1);
  return { lowest, fit: lowest.length < LEAST_MINUTES ? null : line(lowest) };
}

/** The sum of a counter over all servers. */
function total(stats, name) {
  return Object.values(stats).reduce((sum, counters) => sum + counters[name], 0);
}

/** The fitted lines, and each check with its findings. `passed` is null if a check could not be judged. */
function judge({ samples, failures, before, after, met, minutes }) {
  const memory = trend(samples, minutes, ({ resident }) => resident);
  const heap = trend(samples, minutes, (sample) => sample.heap);
  const list = ({ stats }) =>
    Object.entries(stats)
      .map(([server, of]) => `${server} ${HELD.map((name) => `${of[name]} ${name}`).join(', ')}`)
      .join('; ');
  const played = Object.entries(after.stats).flatMap(([server, of]) =>
    PLAYED.map((name) => ({ server, name, n: of[name], expected: met[server]?.[name] ?? 0 })),
  );
  const count = ({ descriptors }) => `${descriptors.length}`;
  const kinds = ({ descriptors }) => descriptors.join();
  const checks = [
    {
      name: 'no message lost, repeated, reordered or altered; every fault handled as specified',
      passed: failures.length === 0,
      found: failures.length === 0 ? 'yes' : failures[0],
    },
    {
      name: 'memory does not grow',
      passed: memory.fit && !grows(memory.fit),
      found: slope(memory.fit),
    },
    {
      name: 'tables as before',
      passed: list(after) === list(before),
      found: `${list(after)} (before: ${list(before)})`,
    },
    {
      name: 'dead, denied and unregistered connections as played',
      passed: played.every(({ n, expected }) => n === expected),
      found: played
        .map(({ server, name, n, expected }) => `${server} ${n} ${name} (played: ${expected})`)
        .join(', '),
    },
    {
      name: 'descriptors as before',
      passed: kinds(after) === kinds(before),
      found: `${count(after)} (before: ${count(before)})${extra(before, after)}`,
    },
    {
      name: 'threads as before',
      passed: after.threads === before.threads,
      found: `${after.threads} (before: ${before.threads})`,
    },
  ];
  return { memory, heap, checks };
}

function grows({ slope, error }) {
  return slope > SIGNIFICANT * error;
}

function slope(fit) {
  if (fit === null) return `unknown: fewer than ${LEAST_MINUTES} minutes after the warm-up`;
  const [kib, error] = [fit.slope / KIB, fit.error / KIB].map((value) => value.toFixed(1));
  return `${kib} KiB per minute, standard error ${error}`;
}

/** The new descriptors by target. */
function extra(before, after) {
  const left = [...before.descriptors];
  const more = after.descriptors.filter((target) => {
    const place = left.indexOf(target);
    if (place >= 0) left.splice(place, 1);
    return place < 0;
  });
  return more.length > 0 ? `: ${more.slice(0, 5).join(', ')}` : '';
}

/** Share of one processor between the first sample and the last. */
function share(samples, seconds) {
  const [first, last] = [samples[0], samples.at(-1)];
  const minutes = last.minute - first.minute;
  return `${(((seconds(last) - seconds(first)) / 60 / minutes) * 100).toFixed(0)} %`;
}

function memory({ samples, before, after, minutes }, verdict) {
  const warm = samples.filter(({ minute }) => minute >= minutes * WARM_UP);
  const row = (name, value, fit, show) => {
    const during = warm.map(value);
    const [least, most] = [Math.min(...during), Math.max(...during)];
    return [name, ...[value(before), least, most, value(after)].map(show), fit];
  };
  return table(
    ['', 'before', 'least', 'most', 'afterwards', 'slope'],
    [
      row('resident memory, MiB', (s) => s.resident, slope(verdict.memory.fit), mib),
      row('heap of JavaScript, MiB', (s) => s.heap, slope(verdict.heap.fit), mib),
      row('descriptors', (s) => s.descriptors.length, '', integer),
      row('connections', (s) => total(s.stats, 'connections'), '', integer),
      row('requests pending', (s) => total(s.stats, 'pending'), '', integer),
    ],
  );
}

function processors({ samples }) {
  return [
    `broker ${share(samples, ({ processor }) => processor)}`,
    `traffic ${share(samples, ({ load }) => load[0])}`,
    `faults ${share(samples, ({ load }) => load[1])}`,
  ].join(', ');
}

function markdown(results, verdict) {
  const { samples, failures, after, counts } = results;
  const servers = Object.keys(after.stats);
  const verdicts = verdict.checks.map(({ name, passed, found }) => [
    name,
    passed === null ? 'not judged' : passed ? 'yes' : '**no**',
    found,
  ]);
  const parts = [
    '# Soak test',
    'The memory of a broker under mixed traffic and faults. Method and repetition: [README.md](../README.md).',
    results.origin,
    table(['check', 'passed', 'found'], verdicts),
  ];
  if (failures.length > 0) parts.push(['```text', ...failures, '```'].join('\n'));
  if (samples.length > 1) {
    parts.push(
      '![resident memory and descriptors over time](soak.svg)',
      `Memory, after a warm-up of a quarter of the time (${(results.minutes * WARM_UP).toFixed(1)} minutes). Slope: of a line through the minimum of each minute:`,
      memory(results, verdict),
      `Share of one processor: ${processors(results)}.`,
    );
  }
  parts.push(
    'Counters of the plain server and of the one with TLS and tokens:',
    table(
      ['counter', ...servers],
      Object.keys(after.stats[servers[0]]).map((counter) => [
        counter,
        ...servers.map((name) => integer(after.stats[name][counter])),
      ]),
    ),
    `${integer(results.arrived)} messages and answers of the traffic were checked individually. Number of plays of each act (some last as long as the run):`,
    table(
      ['act', 'times'],
      Object.entries(counts).map(([name, n]) => [name, integer(n)]),
    ),
  );
  return `${parts.join('\n\n')}\n`;
}

/** Memory is in MiB in the chart. */
function picture({ samples, minutes }, { memory: { lowest, fit } }) {
  if (samples.length === 0) return '';
  const scaled = (points) => points.map(([at, value]) => [at, value / MIB]);
  return chart({
    memory: scaled(series(samples, ({ resident }) => resident)),
    descriptors: series(samples, ({ descriptors }) => descriptors.length),
    lowest: scaled(lowest),
    fit: fit && { slope: fit.slope / MIB, intercept: fit.intercept / MIB },
    warmUp: minutes * WARM_UP,
    title: fit ? slope(fit) : '',
  });
}

module.exports = { HELD, judge, markdown, picture, total };
