'use strict';

// From samples to a verdict, a page and a picture.

const chart = require('./chart');
const { MIB, integer, mib, table } = require('../testkit/report');
const { line, minima } = require('./statistics');

/** Of a run, before what was reserved at first is all in use. */
const WARM_UP = 1 / 4;
/** Minutes after the warm-up below which a slope says nothing. */
const LEAST_MINUTES = 10;
/** Standard errors that a slope must be above zero to be no chance. */
const SIGNIFICANT = 3;
/** What the servers hold, and give back; by the names of their counters. */
const HELD = ['connections', 'registered', 'pending'];
/** What they count as often as an act has brought it about, and never for anybody else. */
const PLAYED = ['dead', 'denied', 'unregistered'];
const KIB = 1024;

/** Points `[minute, value]` of the samples. */
function series(samples, value) {
  return samples.map((sample) => [sample.minute, value(sample)]);
}

/** The line through the minimum of each whole minute after the warm-up, if there are enough of them. */
function trend(samples, minutes, value) {
  const [from, to] = [Math.ceil(minutes * WARM_UP), Math.floor(minutes)];
  const whole = samples.filter(({ minute }) => minute >= from && minute < to);
  const lowest = minima(series(whole, value), 1);
  return { lowest, fit: lowest.length < LEAST_MINUTES ? null : line(lowest) };
}

/** A counter, of all servers together. */
function total(stats, name) {
  return Object.values(stats).reduce((sum, counters) => sum + counters[name], 0);
}

/** What was found: the lines, and each check with what it saw; `passed` is null if it could not tell. */
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
      name: 'nothing lost, repeated, out of order or altered; every fault met as it should be',
      passed: failures.length === 0,
      found: failures.length === 0 ? 'yes' : failures[0],
    },
    {
      name: 'memory does not grow',
      passed: memory.fit && !grows(memory.fit),
      found: slope(memory.fit),
    },
    {
      name: 'tables are as before',
      passed: list(after) === list(before),
      found: `${list(after)} (before: ${list(before)})`,
    },
    {
      name: 'as many were found dead, denied or not registered as should be',
      passed: played.every(({ n, expected }) => n === expected),
      found: played
        .map(({ server, name, n, expected }) => `${server} ${n} ${name} (played: ${expected})`)
        .join(', '),
    },
    {
      name: 'descriptors are as before',
      passed: kinds(after) === kinds(before),
      found: `${count(after)} (before: ${count(before)})${extra(before, after)}`,
    },
    {
      name: 'threads are as before',
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
  if (fit === null) return `not known: fewer than ${LEAST_MINUTES} minutes after the warm-up`;
  const [kib, error] = [fit.slope / KIB, fit.error / KIB].map((value) => value.toFixed(1));
  return `${kib} KiB a minute, standard error ${error}`;
}

/** The descriptors that are new, by what they stand for. */
function extra(before, after) {
  const left = [...before.descriptors];
  const more = after.descriptors.filter((target) => {
    const place = left.indexOf(target);
    if (place >= 0) left.splice(place, 1);
    return place < 0;
  });
  return more.length > 0 ? `: ${more.slice(0, 5).join(', ')}` : '';
}

/** Share of one processor that something took between the first sample and the last. */
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
    '# Soak',
    'A broker under mixed traffic and faults, and what became of its memory. How it is done, and how to repeat it:\n' +
      '[README.md](../README.md).',
    results.origin,
    table(['check', 'passed', 'found'], verdicts),
  ];
  if (failures.length > 0) parts.push(['```text', ...failures, '```'].join('\n'));
  if (samples.length > 1) {
    parts.push(
      '![resident memory and descriptors over time](soak.svg)',
      `Memory, after a warm-up of a quarter of the time (${(results.minutes * WARM_UP).toFixed(1)} minutes). The slope is that of a line through the minimum of each minute:`,
      memory(results, verdict),
      `Of one processor: ${processors(results)}.`,
    );
  }
  parts.push(
    'What the servers counted, the plain one and the one with TLS and tokens:',
    table(
      ['counter', ...servers],
      Object.keys(after.stats[servers[0]]).map((counter) => [
        counter,
        ...servers.map((name) => integer(after.stats[name][counter])),
      ]),
    ),
    `${integer(results.arrived)} messages and answers of the traffic were accounted for one by one. How often each act was played (some last as long as the run):`,
    table(
      ['act', 'times'],
      Object.entries(counts).map(([name, n]) => [name, integer(n)]),
    ),
  );
  return `${parts.join('\n\n')}\n`;
}

/** In the picture memory is in MiB. */
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
