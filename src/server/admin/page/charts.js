// The tiles with their sparklines, and the charts.

import { bytes, count, duration, hour } from './format.js';

/* global uPlot */

const SVG = 'http://www.w3.org/2000/svg';
/** Length of each time range, in seconds. */
const RANGES = { seconds: 300, minutes: 21_600 };
/** Seconds between the points of each time range. */
const STEPS = { seconds: 1, minutes: 60 };
/** Number of points of a sparkline. */
const SPARK = 60;

/** The tiles: title, values with the figures of their sparklines, and a line of text. */
const TILES = [
  {
    title: 'Connections',
    lines: ['connections'],
    value: (now) => [count(now.connections)],
    text: (now, { limits }) => `of ${count(limits.connections)}, ${count(now.ids)} ids`,
    part: (now, { limits }) => now.connections / limits.connections,
  },
  {
    title: 'Messages per second',
    lines: ['messagesIn', 'messagesOut'],
    value: (now) => [count(now.messagesIn), count(now.messagesOut)],
    names: ['in', 'out'],
    text: (_, { received, sent }) => `${count(received)} in, ${count(sent)} out in total`,
  },
  {
    title: 'Bytes per second',
    lines: ['bytesIn', 'bytesOut'],
    value: (now) => [bytes(now.bytesIn), bytes(now.bytesOut)],
    names: ['in', 'out'],
    text: (now) => `${bytes(now.outboxBytes)} queued for clients`,
  },
  {
    title: 'Requests pending',
    lines: ['pending'],
    value: (now) => [count(now.pending)],
    text: (now) => `p50 ${duration(now.requestP50)}, p99 ${duration(now.requestP99)}`,
  },
  {
    title: 'Memory',
    lines: ['memory'],
    value: (now) => [bytes(now.memory)],
    text: (_, { limits }) => `of ${bytes(limits.memory)}`,
    part: (now, { limits }) => now.memory / limits.memory,
  },
];

/** The charts: title, and the series with figure, label, color and format. */
const CHARTS = [
  {
    title: 'Messages per second',
    series: [
      ['messagesIn', 'in', 'a', count],
      ['messagesOut', 'out', 'b', count],
    ],
  },
  {
    title: 'Latency',
    log: true,
    series: [
      ['routingP50', 'routing p50', 'b', duration],
      ['routingP99', 'routing p99', 'b2', duration],
      ['requestP50', 'request p50', 'a', duration],
      ['requestP99', 'request p99', 'a2', duration],
    ],
  },
  {
    title: 'Connections per second',
    series: [
      ['opened', 'opened', 'a', count],
      ['closed', 'closed', 'n', count],
      ['refused', 'refused', 'c', count],
    ],
  },
  {
    title: 'Backpressure',
    whole: true,
    series: [
      ['sendersHeld', 'senders held', 'c', count],
      ['outboxBytes', 'bytes queued', 'a', bytes, 'right'],
    ],
  },
];

const color = (name) => getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Sets a text, only if it has changed. */
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** A line in a box of 100 by 100. */
function points(values, max) {
  const step = 100 / (SPARK - 1);
  const left = 100 - (values.length - 1) * step;
  return values.map(
    (value, index) =>
      `${(left + index * step).toFixed(1)},${(100 - (value / max) * 100).toFixed(1)}`,
  );
}

/** Creates the tiles; returns the function that updates them. */
export function createTiles(parent) {
  const updates = TILES.map(({ title, lines, value, names, text, part }) => {
    const tile = element('article', 'card tile');
    const values = element('p', 'values');
    const parts = lines.map((_, index) => {
      const each = element('span', names ? `value pair ${index ? 'b' : 'a'}` : 'value');
      const number = element('strong', '', '–');
      each.append(number);
      if (names) each.append(' ', element('small', '', names[index]));
      values.append(each, ' ');
      return number;
    });
    const below = element('p', 'hint');
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', '0 0 100 100');
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('aria-hidden', 'true');
    const shapes = lines.map((_, index) => {
      const area = document.createElementNS(SVG, 'polygon');
      const line = document.createElementNS(SVG, 'polyline');
      for (const shape of [area, line]) shape.setAttribute('class', index ? 'b' : 'a');
      svg.append(area, line);
      return [area, line];
    });
    tile.append(element('h2', '', title), values, below, svg);
    parent.append(tile);
    return (now, reply, history) => {
      value(now, reply).forEach((shown, index) => {
        setText(parts[index], shown);
      });
      setText(below, text(now, reply));
      tile.classList.toggle('high', (part?.(now, reply) ?? 0) > 0.8);
      const last = lines.map((name) => history.seconds[name].slice(-SPARK));
      const max = Math.max(1, ...last.flat()) * 1.05;
      last.forEach((data, index) => {
        const line = points(data, max);
        shapes[index][1].setAttribute('points', line.join(' '));
        const first = line.length ? line[0].split(',')[0] : '100';
        shapes[index][0].setAttribute('points', `${first},100 ${line.join(' ')} 100,100`);
      });
    };
  });
  return (...args) => {
    for (const update of updates) update(...args);
  };
}

/** The options of a chart for uPlot. */
function optionsOf({ series, log, whole }, { size, timeRange, step, onCursor }) {
  const format = series[0][3];
  const grid = { stroke: color('grid'), width: 1 };
  const font = Number.parseFloat(getComputedStyle(document.body).fontSize) * 0.8;
  const axis = {
    stroke: color('soft'),
    font: `${font}px system-ui, sans-serif`,
    grid,
    ticks: { show: false },
  };
  const vertical = { ...axis, size: font * 5.6, space: font * 2.6 };
  const right = series.find(([, , , , side]) => side);
  const linear = (_, __, max) => [0, max > 0 ? max * 1.15 : 1];
  const integers = (_, __, max) => [0, Math.max(4, max * 1.15)];
  const decades = (_, min, max) => [
    10 ** Math.floor(Math.log10(min || 1e-5)),
    10 ** Math.max(Math.ceil(Math.log10(max || 1e-2)), Math.floor(Math.log10(min || 1e-5)) + 1),
  ];
  const powers = (_, __, min, max) => {
    const first = Math.round(Math.log10(min));
    const number = Math.round(Math.log10(max)) - first + 1;
    return Array.from({ length: number }, (_, index) => 10 ** (first + index));
  };
  return {
    ...size,
    padding: [font / 2, right ? 0 : font * 2.2, 0, 0],
    legend: { show: false },
    cursor: {
      sync: { key: 'charts' },
      drag: { x: false, y: false },
      y: false,
      points: { size: 7 },
      // A point that is far from the cursor is not meant.
      dataIdx: (view, _, index, at) =>
        Math.abs(view.data[0][index] - at) > step * 2 ? null : index,
    },
    scales: {
      x: { range: timeRange },
      y: log ? { distr: 3, range: decades } : { range: whole ? integers : linear },
      right: { range: linear },
    },
    axes: [
      {
        ...axis,
        grid: { show: false },
        size: font * 2.2,
        space: font * 5.5,
        incrs: [60, 120, 300, 600, 1800, 3600, 7200],
        values: (_, splits) => splits.map((at) => hour(at * 1000)),
      },
      {
        ...vertical,
        ...(whole && { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000] }),
        ...(log && { splits: powers, filter: (_, splits) => splits }),
        values: (_, splits) => splits.map(format),
      },
      ...(right
        ? [
            {
              ...vertical,
              scale: 'right',
              side: 1,
              grid: { show: false },
              values: (_, splits) => splits.map(right[3]),
            },
          ]
        : []),
    ],
    series: [
      {},
      ...series.map(([, label, name, , side]) => ({
        label,
        scale: side ?? 'y',
        stroke: color(name),
        width: 1.75,
        dash: name.endsWith('2') ? [4, 3] : undefined,
        fill: log || name.endsWith('2') ? undefined : `${color(name)}1f`,
        points: { show: false },
        spanGaps: false,
      })),
    ],
    hooks: { setCursor: [onCursor] },
  };
}

/** Creates the charts; returns the functions that update and rebuild them. */
export function createCharts(parent) {
  const charts = CHARTS.map((chart) => {
    const card = element('figure', 'card chart');
    const head = element('figcaption');
    const legend = element('p', 'legend');
    const shown = chart.series.map(([, label, name]) => {
      const item = element('span', `key ${name}`);
      const number = element('b', '', '–');
      item.append(element('i'), `${label} `, number);
      legend.append(item, ' ');
      return number;
    });
    head.append(element('h2', '', chart.title), legend);
    const plot = element('div', 'plot');
    plot.setAttribute('aria-hidden', 'true');
    card.append(head, plot);
    parent.append(card);
    return { ...chart, card, plot, shown };
  });
  let range = 'seconds';
  let data;

  function showValues(chart) {
    const { cursor, data: all } = chart.view;
    const isLatest = cursor.left < 0 || cursor.left === undefined;
    chart.series.forEach(([, , , format], index) => {
      const values = all[index + 1];
      const at = isLatest ? values.length - 1 : cursor.idxs[index + 1];
      setText(chart.shown[index], format(values[at]));
    });
  }

  const sizeOf = ({ plot }) => ({
    width: plot.clientWidth || 300,
    height: plot.clientHeight || 180,
  });

  function dataOf({ series }) {
    const points = data[range];
    return [points.time, ...series.map(([name]) => points[name])];
  }

  const timeRange = () => [data.end - RANGES[range], data.end];

  function build() {
    for (const chart of charts) {
      chart.view?.destroy();
      const onCursor = () => chart.view && showValues(chart);
      const size = sizeOf(chart);
      const options = optionsOf(chart, { size, timeRange, step: STEPS[range], onCursor });
      chart.view = new uPlot(options, dataOf(chart), chart.plot);
      showValues(chart);
    }
  }

  new ResizeObserver(() => {
    for (const chart of charts) chart.view?.setSize(sizeOf(chart));
  }).observe(parent);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => data && build());

  return {
    update(history) {
      const isFirst = !data;
      data = history;
      if (isFirst) return build();
      for (const chart of charts) {
        chart.view.setData(dataOf(chart));
        showValues(chart);
      }
    },
    setRange(name) {
      range = name;
      if (data) build();
    },
  };
}
