'use strict';

// From samples to a table. A figure is the median of its rounds, with the lowest and the highest.

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function summary(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** One row for each group and rival; `fields` are the numbers of a sample that are summed up. */
function summarize(samples, group, fields) {
  const rows = new Map();
  for (const sample of samples) {
    const key = `${sample[group]}\n${sample.rival}`;
    if (!rows.has(key)) rows.set(key, { [group]: sample[group], rival: sample.rival, rounds: [] });
    const { rival, [group]: _, ...rest } = sample;
    rows.get(key).rounds.push(rest);
  }
  return [...rows.values()].map(({ rounds, ...row }) => {
    for (const field of fields) row[field] = summary(rounds.map((round) => round[field]));
    return { ...row, rounds };
  });
}

/** Adds to each of the fields its `ratio`: the median over that of `ws8` in the same group. */
function compare(rows, group, fields) {
  for (const row of rows) {
    const base = rows.find((other) => other.rival === 'ws8' && other[group] === row[group]);
    if (!base) continue;
    for (const field of fields) row[field].ratio = row[field].median / base[field].median;
  }
  return rows;
}

const integer = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

function number(value) {
  if (value >= 100) return integer.format(value);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function withSpread({ median: middle, min, max }) {
  return `${number(middle)} (${number(min)}-${number(max)})`;
}

function times({ ratio }) {
  return ratio === undefined ? '' : `${number(ratio)}x`;
}

function table(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

// A generator at its own limit measures itself; what the broker could have done is then unknown.
const SATURATED = 0.9;

function pipelined(rows) {
  const head = ['message', 'broker', 'messages/s', 'to ws8', 'CPU us/message', 'to ws8'];
  const cells = rows.map((row) => {
    const saturated = row.saturation.median >= SATURATED;
    return [
      `${integer.format(row.size)} B`,
      row.rival,
      `${saturated ? 'at least ' : ''}${withSpread(row.messages_per_second)}`,
      times(row.messages_per_second),
      withSpread(row.cpu_us_per_message),
      times(row.cpu_us_per_message),
      `${(row.saturation.median * 100).toFixed(0)} %`,
    ];
  });
  return `Pipelined\n\n${table([...head, 'load thread busy'], cells)}`;
}

function idle(rows) {
  const head = ['connections', 'broker', 'bytes each (RSS)', 'to ws8', 'bytes each (PSS)', 'empty'];
  const cells = rows.map((row) => [
    integer.format(row.connections),
    row.rival,
    withSpread(row.rss_per_connection),
    times(row.rss_per_connection),
    withSpread(row.pss_per_connection),
    `${(row.empty_rss.median / 2 ** 20).toFixed(1)} MiB`,
  ]);
  return `Idle (rounds: ${rows[0].rounds.length})\n\n${table(head, cells)}`;
}

function request(rows) {
  const head = ['askers', 'broker', 'p50 us', 'to ws8', 'p99 us', 'p99.9 us', 'CPU us/request'];
  const cells = rows.map((row) => [
    row.pairs,
    row.rival,
    withSpread(row.p50_us),
    times(row.p50_us),
    withSpread(row.p99_us),
    withSpread(row.p999_us),
    withSpread(row.cpu_us_per_message),
  ]);
  return `Request and answer\n\n${table(head, cells)}`;
}

// The kernel's own work on the loopback interface is counted here too: some percent are always there.
const NOISE = 0.3;

/** How much of one processor other programs, and the host, had while it was measured. */
function others({ pipelined: flows = [], request: requests = [] }) {
  const shares = [...flows, ...requests].flatMap((row) => row.rounds.map((round) => round.others));
  if (shares.length === 0) return 'what other programs used was not measured';
  const percent = (share) => `${(share * 100).toFixed(0)} %`;
  const quiet = median(shares) < NOISE ? '' : ': not a quiet machine, the figures are worth little';
  const most = percent(Math.max(...shares));
  return `others used ${percent(median(shares))} of one meanwhile (at most ${most})${quiet}`;
}

function markdown(results) {
  const { machine, versions, settings } = results;
  const cpus = machine.cpus_of
    ? `broker on processor ${machine.cpus_of.broker}, load on ${machine.cpus_of.load}`
    : 'broker and load share all processors';
  const brokers = Object.entries(versions).map(([name, version]) => `${name} ${version}`);
  const parts = [
    [
      `- machine: ${machine.cpu}, ${machine.cores} cores, ${machine.memory_gib} GiB, ${machine.system}`,
      `- processors: ${cpus}; ${others(results)}`,
      `- versions: ${brokers.join(', ')}`,
      `- ${results.date}, \`${results.command}\`: median of ${settings.rounds} rounds (lowest-highest), ${settings.seconds} s each`,
    ].join('\n'),
  ];
  if (results.pipelined) parts.push(pipelined(results.pipelined));
  if (results.idle) parts.push(idle(results.idle));
  if (results.request) parts.push(request(results.request));
  return `${parts.join('\n\n')}\n`;
}

module.exports = { compare, markdown, median, summarize };
