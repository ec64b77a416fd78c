'use strict';

// Converts rows to charts in SVG: a figure along an axis, and percentiles by rival. Both axes are
// logarithmic, because figures differ by orders of magnitude. A mark is a median; the line through it reaches
// from the lowest to the highest round.

const { GRID, QUIET, polyline, stroke, svg, text } = require('../../testkit/chart');

const WIDTH = 820;
const AREA = { left: 84, right: 650, top: 56 };
const LINES_BOTTOM = 400;
/** Lines of text closer than this overlap. */
const LINE = 16;

// Colours of Okabe and Ito, which are distinguishable for the colour-blind. Shapes differ as well.
const STYLES = {
  wsmsgbroker: ['#0072b2', 'circle'],
  nats: ['#009e73', 'square'],
  bun: ['#cc79a7', 'triangle'],
  'ws8-corked': ['#e69f00', 'diamond'],
  ws8: ['#d55e00', 'cross'],
  socketio: ['#56b4e9', 'square'],
  original: ['#6e6e6e', 'triangle'],
};
const OTHER = ['#000000', 'diamond'];

const integer = new Intl.NumberFormat('en-US', { maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 });

/** The mark of a rival at a position, as a path of about nine pixels. */
function mark(x, y, [colour, shape]) {
  const at = `transform="translate(${x.toFixed(1)} ${y.toFixed(1)})"`;
  const drawn = {
    circle: 'M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z',
    square: 'M-4 -4h8v8h-8z',
    triangle: 'M0 -5L5 4H-5z',
    diamond: 'M0 -5.5L5.5 0L0 5.5L-5.5 0z',
    cross: 'M-4 -4L4 4M4 -4L-4 4',
  };
  const line = shape === 'cross' ? `stroke="${colour}" stroke-width="2.6"` : '';
  return `<path ${at} d="${drawn[shape]}" fill="${colour}" ${line}/>`;
}

/**
 * A logarithmic axis that contains all values. Ticks are 1, 2 and 5 of each decade, or 1 alone if that is
 * enough.
 */
function logarithmic(values, from, to) {
  const [least, most] = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const decades = [];
  for (let power = Math.floor(least); power <= Math.ceil(most); power += 1)
    decades.push(10 ** power);
  const steps = most - least > 2.5 ? [1] : [1, 2, 5];
  const ticks = decades.flatMap((decade) => steps.map((step) => step * decade));
  const below = Math.max(...ticks.filter((tick) => tick <= 10 ** least * 1.0001));
  const above = Math.min(
    ...ticks.filter((tick) => tick * 1.0001 >= 10 ** most),
    10 ** Math.ceil(most),
  );
  const [start, end] = [Math.log10(below), Math.log10(above)];
  return {
    ticks: ticks.filter((tick) => tick >= below && tick <= above),
    at: (value) => from + ((to - from) * (Math.log10(value) - start)) / (end - start || 1),
  };
}

/** An axis with a tick for each measured value, at logarithmic distances. */
function measured(values, from, to) {
  const ticks = [...new Set(values)].sort((a, b) => a - b);
  const [start, end] = [ticks[0], ticks.at(-1)].map(Math.log10);
  const inset = ticks.length === 1 ? (to - from) / 2 : 24;
  const span = to - from - 2 * inset;
  return {
    ticks,
    at: (value) => from + inset + (span * (Math.log10(value) - start)) / (end - start || 1),
  };
}

/** Moves positions apart that are closer than a line of text, and keeps their order. */
function spread(places, bottom) {
  const order = places.map((y, index) => ({ y, index })).sort((a, b) => a.y - b.y);
  for (let n = 1; n < order.length; n += 1) {
    order[n].y = Math.max(order[n].y, order[n - 1].y + LINE);
  }
  const excess = Math.max(0, (order.at(-1)?.y ?? 0) - bottom);
  const moved = [];
  for (const { y, index } of order) moved[index] = y - excess;
  return moved;
}

/** A chart with its title above it. */
function picture(title, height, parts) {
  const more = 'font-size="16" font-weight="600"';
  const head = text(AREA.left, 26, title, { anchor: 'start', more });
  return svg(title, { width: WIDTH, height }, [head, ...parts]);
}

/** The rows that have both figures with values above zero. */
function points(rows, x, y) {
  return rows.filter((row) => row[x] > 0 && row[y]?.min > 0);
}

/** The rows of each rival, in the order of `x`. */
function byRival(rows, x) {
  const rivals = new Map();
  for (const row of rows) rivals.set(row.rival, [...(rivals.get(row.rival) ?? []), row]);
  for (const own of rivals.values()) own.sort((a, b) => a[x] - b[x]);
  return [...rivals];
}

/** A line per rival. `x` and `y` are `{ field, label }`. Returns null if there is nothing to draw. */
function lines({ title, rows, x, y }) {
  const shown = points(rows, x.field, y.field);
  if (shown.length === 0) return null;
  const across = measured(
    shown.map((row) => row[x.field]),
    AREA.left,
    AREA.right,
  );
  const extremes = shown.flatMap((row) => [row[y.field].min, row[y.field].max]);
  const up = logarithmic(extremes, LINES_BOTTOM, AREA.top);
  const parts = [
    ...up.ticks.flatMap((tick) => [
      stroke(AREA.left, up.at(tick), AREA.right, up.at(tick), GRID),
      text(AREA.left - 8, up.at(tick) + 4, compact.format(tick), { anchor: 'end', fill: QUIET }),
    ]),
    ...across.ticks.flatMap((tick) => [
      stroke(across.at(tick), LINES_BOTTOM, across.at(tick), LINES_BOTTOM + 5, QUIET),
      text(across.at(tick), LINES_BOTTOM + 20, integer.format(tick), { fill: QUIET }),
    ]),
    stroke(AREA.left, LINES_BOTTOM, AREA.right, LINES_BOTTOM, QUIET),
    text((AREA.left + AREA.right) / 2, LINES_BOTTOM + 42, x.label),
    text(AREA.left, AREA.top - 10, y.label, { anchor: 'start', fill: QUIET }),
  ];
  const rivals = byRival(shown, x.field);
  const ends = rivals.map(([, own]) => up.at(own.at(-1)[y.field].median));
  const names = spread(ends, LINES_BOTTOM);
  rivals.forEach(([rival, own], index) => {
    const style = STYLES[rival] ?? OTHER;
    const at = (row) => [across.at(row[x.field]), up.at(row[y.field].median)];
    const width = rival === 'wsmsgbroker' ? 2.6 : 1.6;
    parts.push(
      polyline(own.map(at), style[0], width),
      ...own.flatMap((row) => {
        const [left, { min, max }] = [across.at(row[x.field]), row[y.field]];
        return [stroke(left, up.at(min), left, up.at(max), style[0]), mark(...at(row), style)];
      }),
      mark(AREA.right + 16, names[index], style),
      text(AREA.right + 28, names[index] + 4, rival, { anchor: 'start' }),
    );
  });
  return picture(title, LINES_BOTTOM + 60, parts);
}

// The middle label is below its mark, the others above, because marks may be close together.
const PERCENTILES = [
  ['p50_us', 'p50', -9],
  ['p99_us', 'p99', 17],
  ['p999_us', 'p99.9', -9],
];

/** A row per rival, with a mark per percentile. Returns null if there is nothing to draw. */
function percentiles({ title, rows }) {
  const shown = PERCENTILES.reduce(
    (left, [field]) => left.filter((row) => row[field]?.min > 0),
    rows,
  );
  if (shown.length === 0) return null;
  const each = 46;
  const bottom = AREA.top + 12 + each * shown.length;
  const left = AREA.left + 84;
  const right = WIDTH - 40;
  const values = shown.flatMap((row) => PERCENTILES.map(([field]) => row[field].median));
  const across = logarithmic(values, left, right);
  const parts = [
    ...across.ticks.flatMap((tick) => [
      stroke(across.at(tick), AREA.top, across.at(tick), bottom, GRID),
      text(across.at(tick), bottom + 18, integer.format(tick), { fill: QUIET }),
    ]),
    text((left + right) / 2, bottom + 40, 'round trip in microseconds'),
  ];
  shown.forEach((row, index) => {
    const y = AREA.top + 26 + each * index;
    const style = STYLES[row.rival] ?? OTHER;
    const places = PERCENTILES.map(([field]) => across.at(row[field].median));
    parts.push(
      text(left - 14, y + 4, row.rival, { anchor: 'end' }),
      stroke(places[0], y, places[2], y, style[0], { width: 2 }),
      ...places.flatMap((x, n) => [
        mark(x, y, style),
        text(x, y + PERCENTILES[n][2], PERCENTILES[n][1], {
          fill: QUIET,
          more: 'font-size="10.5"',
        }),
      ]),
    );
  });
  return picture(title, bottom + 56, parts);
}

/** All charts for which there are results: file name to SVG. */
function charts({ pipelined = [], request = [], idle = [], growth = [], api = [] }) {
  const rate = { field: 'messages_per_second', label: 'messages a second' };
  const connections = { field: 'connections', label: 'connections' };
  const size = { field: 'size', label: 'bytes of a message' };
  const of = (cpus) => pipelined.filter((row) => (row.cpus ?? 'pinned') === cpus);
  const pings = (layout) => api.filter((row) => row.scenario === 'ping' && row.layout === layout);
  const askers = [...new Set(request.map((row) => row.pairs))];
  const drawn = {
    'size-pinned': lines({
      title: 'Throughput by message size, processors apart',
      rows: of('pinned'),
      x: size,
      y: rate,
    }),
    'size-shared': lines({
      title: 'Throughput by message size, processors shared',
      rows: of('shared'),
      x: size,
      y: rate,
    }),
    connections: lines({
      title: 'Throughput by connections',
      rows: growth,
      x: connections,
      y: rate,
    }),
    memory: lines({
      title: 'Memory of an idle connection',
      rows: idle,
      x: connections,
      y: { field: 'rss_per_connection', label: 'bytes each' },
    }),
    'ping-one': percentiles({
      title: 'Node API, one process: a request and its answer',
      rows: pings('one'),
    }),
    'ping-two': percentiles({
      title: 'Node API, two processes: a request and its answer',
      rows: pings('two'),
    }),
  };
  for (const pairs of askers) {
    const rows = request.filter((row) => row.pairs === pairs);
    const title = `A request and its answer, ${pairs} ${pairs === 1 ? 'pair' : 'pairs'}`;
    drawn[`latency-${pairs}`] = percentiles({ title, rows });
  }
  return Object.fromEntries(
    Object.entries(drawn)
      .filter(([, chart]) => chart !== null)
      .map(([name, chart]) => [`${name}.svg`, chart]),
  );
}

module.exports = { charts, lines, percentiles };
