'use strict';

// Converts samples to a table. A figure is the median of its rounds, with the lowest and the highest.

const { describe, integer, list, table: markdownTable } = require('../../testkit/report');

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function summary(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** The key of a row without its rival. */
const keyOf = (groups, row) => groups.map((group) => row[group]).join('\n');

/** One row per rival and combination of group values. `fields` are the numbers to summarize. */
function summarize(samples, groups, fields) {
  const rows = new Map();
  for (const { rival, ...sample } of samples) {
    const key = `${keyOf(groups, sample)}\n${rival}`;
    const about = Object.fromEntries(groups.map((group) => [group, sample[group]]));
    if (!rows.has(key)) rows.set(key, { ...about, rival, rounds: [] });
    for (const group of groups) delete sample[group];
    rows.get(key).rounds.push(sample);
  }
  return [...rows.values()].map(({ rounds, ...row }) => {
    for (const field of fields) row[field] = summary(rounds.map((round) => round[field]));
    return { ...row, rounds };
  });
}

/** Adds `ratio` to each field: its median relative to that of `base` in the same groups. */
function compare(rows, groups, fields, base = 'ws8') {
  const others = rows.filter(({ rival }) => rival === base);
  for (const row of rows) {
    const other = others.find((candidate) => keyOf(groups, candidate) === keyOf(groups, row));
    for (const field of fields) {
      if (other?.[field].median) row[field].ratio = row[field].median / other[field].median;
    }
  }
  return rows;
}

function number(value) {
  if (value >= 100 || value === 0) return integer(value);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function withSpread({ median: middle, min, max }) {
  return `${number(middle)} (${number(min)}-${number(max)})`;
}

function times({ ratio }) {
  return ratio === undefined ? '' : `${number(ratio)}x`;
}

const percent = (share) => `${(share * 100).toFixed(0)} %`;

// A load generator that is this busy limits the measurement, and the capacity of the broker is unknown.
const SATURATED = 0.9;

/** A throughput, with "at least" if the load generator was saturated. */
function throughput(row, field = 'messages_per_second') {
  const limited = row.saturation.median >= SATURATED ? 'at least ' : '';
  return `${limited}${withSpread(row[field])}`;
}

/** A table in Markdown: columns as `[head, row => cell]`. */
function table(rows, columns) {
  return markdownTable(
    columns.map(([head]) => head),
    rows.map((row) => columns.map(([, cell]) => cell(row))),
  );
}

// Processor time of the kernel for the loopback interface is included here, which is always some percent.
const NOISE = 0.3;

/** Share of one processor that other programs and the host used during the measurement. */
function others(results) {
  const rounds = Object.values(results).flatMap(
    (rows) => rows.flatMap?.((row) => row.rounds) ?? [],
  );
  const shares = rounds.map((round) => round?.others).filter((share) => share !== undefined);
  if (shares.length === 0) return 'the load of other programs was not measured';
  const quiet = median(shares) < NOISE ? '' : ': the machine was busy, the figures are unreliable';
  const most = percent(Math.max(...shares));
  return `others used ${percent(median(shares))} of one meanwhile (at most ${most})${quiet}`;
}

/** The whole report: machine and versions, then the table of each measure with rows. */
function markdown(results, measures) {
  const { machine, versions, settings } = results;
  const cpus = machine.cpus_of
    ? `pinned: ${machine.measured ?? 'broker'} on processor ${machine.cpus_of.broker}, load on ${machine.cpus_of.load}`
    : `${machine.measured ?? 'broker'} and load share all processors`;
  const brokers = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  const head = list([
    describe(machine),
    `processors: ${cpus}; ${others(results)}`,
    `versions: ${brokers.join(', ')}`,
    `${results.date}, \`${results.command}\`: median of ${settings.rounds} rounds (lowest-highest), ${settings.seconds} s each`,
  ]);
  const tables = measures
    .filter(({ name }) => results[name]?.length > 0)
    .map(({ name, title, table }) => `**${title}**\n\n${table(results[name])}`);
  return `${[head, ...tables].join('\n\n')}\n`;
}

module.exports = {
  compare,
  integer,
  markdown,
  median,
  number,
  percent,
  summarize,
  table,
  throughput,
  times,
  withSpread,
};
