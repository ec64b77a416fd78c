'use strict';

// The targets of the figures. All are ratios of medians within one run, unless they have a unit. Figures that
// a run has not measured are not judged.

const OURS = 'wsmsgbroker';
/** From this load on, a load thread limits the measurement. */
const SATURATED = 0.9;

const integer = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** About three significant digits. */
function number(value) {
  if (value >= 100) return integer.format(value);
  const digits = value >= 10 ? 1 : value >= 0.1 ? 2 : 3;
  return String(Number(value.toFixed(digits)));
}

const UNITS = {
  ratio: (value) => `${number(value)}x`,
  bytes: (value) => `${number(value)} B`,
  ms: (value) => `${number(value)} ms`,
};

/** The row of a kind with all values of `where`. */
function find(results, kind, where) {
  const isIt = (row) => Object.entries(where).every(([key, value]) => row[key] === value);
  return results[kind]?.find(isIt);
}

/** The ratio of a field of two rows, or undefined if one of them was not measured. */
function divide(a, b, field) {
  const value = a?.[field]?.median / b?.[field]?.median;
  return Number.isFinite(value) ? value : undefined;
}

/** The ratio of our figure to that of a rival. */
const against = (rival, kind, field, where) => (results) => ({
  value: divide(
    find(results, kind, { ...where, rival: OURS }),
    find(results, kind, { ...where, rival }),
    field,
  ),
});

/**
 * The value of `at` for rows with separate processors and for rows with shared processors. `at` finds rows by
 * `rowOf(rival)`. The former is judged, or the latter if the former is missing or its load was saturated.
 * Rivals are never compared across the two.
 */
const placed = (kind, where, at) => (results) => {
  let isSaturated = false;
  const [pinned, shared] = ['pinned', 'shared'].map((cpus) =>
    at((rival) => {
      const row = find(results, kind, { ...where, cpus, rival });
      if (cpus === 'pinned' && row?.saturation?.median >= SATURATED) isSaturated = true;
      return row;
    }),
  );
  if (pinned !== undefined && !isSaturated) return { value: pinned, shared };
  const note = pinned === undefined ? 'shared' : 'shared: the load was at its limit';
  return { value: shared, measured: pinned, shared, note: shared === undefined ? '' : note };
};

const pipelined = (rival, field, size) =>
  placed('pipelined', { size }, (rowOf) => divide(rowOf(OURS), rowOf(rival), field));

/** Throughput at the largest count, relative to that at the smallest. */
const grown = (kind, count, field, what) => (results) => {
  const rows = (results[kind] ?? []).filter(({ rival }) => rival === OURS);
  const [few, ...more] = rows.toSorted((a, b) => a[count] - b[count]);
  const many = more.at(-1);
  if (!many) return {};
  const note = `${integer.format(many[count])} against ${integer.format(few[count])}`;
  // A time per message is inverse to throughput.
  const isTime = field.endsWith('_ns');
  const value = isTime ? divide(few, many, field) : divide(many, few, field);
  return { value, note: what ? `${note}, ${what}` : note };
};

/** One of our own figures. `of` is the median or the worst. */
const own = (kind, field, of) => (results) => ({
  value: find(results, kind, { rival: OURS })?.[field]?.[of],
});

/** Bytes per connection at the largest count. */
const idle = (results) => {
  const rows = (results.idle ?? []).filter(({ rival }) => rival === OURS);
  const most = rows.toSorted((a, b) => a.connections - b.connections).at(-1);
  const note = most && `${integer.format(most.connections)} connections`;
  return { value: most?.rss_per_connection?.median, note };
};

const atLeast = (measure, target, beyond, read, unit = 'ratio') => ({
  measure,
  target,
  beyond,
  read,
  unit,
  sign: 'at least',
  reaches: (value, mark) => value >= mark,
});
const atMost = (measure, target, beyond, read, unit = 'ratio') => ({
  measure,
  target,
  beyond,
  read,
  unit,
  sign: 'at most',
  reaches: (value, mark) => value <= mark,
});

const RATE = 'messages_per_second';
const api = (rival, field, scenario, layout) => against(rival, 'api', field, { scenario, layout });

const TARGETS = [
  atLeast('pipelined 100 B to ws8', 25, 40, pipelined('ws8', RATE, 100)),
  atLeast('pipelined 1 KB to ws8', 18, 30, pipelined('ws8', RATE, 1024)),
  atLeast('pipelined 16 KB to ws8', 8, 12, pipelined('ws8', RATE, 16_384)),
  atLeast('pipelined 100 B to nats', 1.1, 1.6, pipelined('nats', RATE, 100)),
  atLeast('pipelined 1 KB to nats', 1.5, 2, pipelined('nats', RATE, 1024)),
  atLeast('pipelined 16 KB to nats', 2, 3, pipelined('nats', RATE, 16_384)),
  atLeast('pipelined 100 B to bun', 12, null, pipelined('bun', RATE, 100)),
  atLeast('pipelined 1 KB to bun', 8, null, pipelined('bun', RATE, 1024)),
  atLeast('pipelined 16 KB to bun', 2.5, null, pipelined('bun', RATE, 16_384)),
  ...[100, 1024, 16_384].map((size, at) =>
    atLeast(
      `pipelined ${['100 B', '1 KB', '16 KB'][at]} to bun-plain`,
      [12, 8, 2.5][at],
      null,
      pipelined('bun-plain', RATE, size),
    ),
  ),
  atMost(
    'CPU a message, 100 B, to ws8',
    1 / 20,
    1 / 35,
    pipelined('ws8', 'cpu_us_per_message', 100),
  ),
  atMost('CPU a message, 100 B, to nats', 1, null, pipelined('nats', 'cpu_us_per_message', 100)),
  atLeast('200 pairs, one in flight, to ws8', 2.5, 3, against('ws8', 'pairs200', RATE)),
  atLeast('200 pairs, one in flight, to bun', 1.1, null, against('bun', 'pairs200', RATE)),
  atLeast('requests of 8 pairs to bun', 1.2, null, against('bun', 'request', RATE, { pairs: 8 })),
  atMost('p99 of 8 pairs to bun', 1, null, against('bun', 'request', 'p99_us', { pairs: 8 })),
  atMost('p50 of one pair to bun', 1, null, against('bun', 'request', 'p50_us', { pairs: 1 })),
  atMost('p99 beside a slow consumer to nats', 1.5, 1, against('nats', 'slow', 'p99_us')),
  atLeast('fan-out to 100 to ws8', 4, null, against('ws8', 'fanout', RATE, { receivers: 100 })),
  atLeast('fan-out to 100 to nats', 1.1, null, against('nats', 'fanout', RATE, { receivers: 100 })),
  atMost('memory of an idle connection', 8192, 3072, idle, 'bytes'),
  atLeast('connect-and-leave cycles to bun', 1, null, against('bun', 'cycles', RATE)),
  atLeast('throughput while JavaScript blocks', 0.8, null, own('stall', 'share', 'median')),
  atMost(
    'latest message while JavaScript blocks',
    20,
    null,
    own('stall', 'longest_gap_ms', 'max'),
    'ms',
  ),
  atLeast('API, one process: one way to ws8', 8, 12, api('ws8', RATE, 'oneway', 'one')),
  atLeast('API, one process: asks to ws8', 4, 7, api('ws8', RATE, 'asks', 'one')),
  atMost(
    'API, one process: ping p50 to original',
    1 / 5,
    1 / 25,
    api('original', 'p50_us', 'ping', 'one'),
  ),
  atMost('API, one process: ping p50 to ws8', null, 1, api('ws8', 'p50_us', 'ping', 'one')),
  atLeast('API, two processes: one way to ws8', 5, 8, api('ws8', RATE, 'oneway', 'two')),
  atMost('API, two processes: ping p50 to ws8', 1, 0.8, api('ws8', 'p50_us', 'ping', 'two')),
  atLeast('throughput with many connections', 0.7, 0.9, grown('growth', 'connections', RATE)),
  atLeast('routing with many ids, 16 of them used', 0.7, 0.9, grown('ids', 'ids', 'hot_ns')),
  atLeast('routing with many ids, all of them used', 0.7, 0.9, grown('ids', 'ids', 'any_ns')),
];

function verdictOf({ target, beyond, reaches }, value) {
  if (value === undefined) return 'not measured';
  if (beyond !== null && reaches(value, beyond)) return 'beyond';
  if (target === null) return 'reported';
  return reaches(value, target) ? 'met' : 'missed';
}

/** A row per target: `measure`, `target`, `beyond`, `measured`, `shared` as text, and the `verdict`. */
function judge(results, goals = TARGETS) {
  return goals.map((goal) => {
    const { value, measured = value, shared, note } = goal.read(results);
    const unit = (figure) => (figure === undefined ? '' : UNITS[goal.unit](figure));
    const mark = (figure) => (figure === null ? '' : `${goal.sign} ${unit(figure)}`);
    return {
      measure: goal.measure,
      target: mark(goal.target),
      beyond: mark(goal.beyond),
      measured: unit(measured),
      shared: unit(shared),
      note: note ?? '',
      verdict: verdictOf(goal, value),
    };
  });
}

/** The rows as Markdown, with the number of each verdict. */
function targets(results, goals) {
  const rows = judge(results, goals);
  const verdicts = ['beyond', 'met', 'reported', 'missed', 'not measured'];
  const counts = verdicts.map((verdict) => [
    rows.filter((row) => row.verdict === verdict).length,
    verdict,
  ]);
  const head = ['measure', 'target', 'beyond', 'measured', 'shared', 'verdict'];
  const line = (cells) => `| ${cells.join(' | ')} |`;
  const cells = rows.map(({ note, verdict, ...row }) => {
    const said = note ? `${verdict} (${note})` : verdict;
    return head.map((name) => (name === 'verdict' ? said : row[name]));
  });
  const table = [line(head), line(head.map(() => '---')), ...cells.map(line)].join('\n');
  const sum = counts.filter(([count]) => count > 0).map((count) => count.join(' '));
  return `${table}\n\n${sum.join(', ')}.`;
}

module.exports = { atLeast, atMost, divide, judge, placed, targets };
