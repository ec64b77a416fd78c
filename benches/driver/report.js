'use strict';

// From samples to a table. A figure is the median of its rounds, with the lowest and the highest.

const { describe, integer, list, table: markdownTable } = require('../../testkit/report');

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function summary(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** What a row is about, besides its rival, as one key. */
const keyOf = (groups, row) => groups.map((group) => row[group]).join('\n');

/** One row for each rival and value of the groups; `fields` are the numbers that are summed up. */
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

/** Adds to each of the fields its `ratio`: the median over that of `base` in the same groups. */
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

// A generator at its own limit measures itself; what the broker could have done is then unknown.
const SATURATED = 0.9;

/** A throughput, marked where the load could not have done more. */
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

// The kernel's own work on the loopback interface is counted here too: some percent are always there.
const NOISE = 0.3;

/** How much of one processor other programs, and the host, had while it was measured. */
function others(results) {
  const rounds = Object.values(results).flatMap(
    (rows) => rows.flatMap?.((row) => row.rounds) ?? [],
  );
  const shares = rounds.map((round) => round?.others).filter((share) => share !== undefined);
  if (shares.length === 0) return 'what other programs used was not measured';
  const quiet = median(shares) < NOISE ? '' : ': not a quiet machine, the figures are worth little';
  const most = percent(Math.max(...shares));
  return `others used ${percent(median(shares))} of one meanwhile (at most ${most})${quiet}`;
}

/** All of it: the circumstances, then the table of each measure that has rows. */
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
