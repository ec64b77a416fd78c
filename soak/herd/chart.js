'use strict';

// How many clients came back in each slot of time, as an SVG: a panel for each way in which the broker went.

const { axis, label, stroke } = require('../chart');

const WIDTH = 960;
const PANEL = 190;
const AREA = { left: 60, right: 930, top: 34, bottom: 150 };
const COLOURS = { native: '#1f6feb', browser: '#9a6700' };
const GRID = '#d0d7de';

/** The outline of the counts. */
function steps(counts, slot, x, y) {
  const points = counts.flatMap((count, n) =>
    [n, n + 1].map((edge) => `${x.at((edge * slot) / 1000).toFixed(1)},${y.at(count).toFixed(1)}`),
  );
  const start = `${x.at(0).toFixed(1)},${y.at(0).toFixed(1)}`;
  const end = `${x.at((counts.length * slot) / 1000).toFixed(1)},${y.at(0).toFixed(1)}`;
  return [start, ...points, end].join(' ');
}

function panel({ title, lines, listening }, place, seconds, slot) {
  const [top, bottom] = [AREA.top, AREA.bottom].map((at) => at + place * PANEL);
  const x = axis({ end: seconds, parts: 12 }, AREA.left, AREA.right);
  const most = Math.max(...lines.flatMap(({ counts }) => counts));
  const y = axis({ most, parts: 4 }, bottom, top);
  return [
    label(AREA.left, top - 10, title, 'start'),
    ...y.ticks.map((tick) =>
      [
        stroke(AREA.left, y.at(tick), AREA.right, y.at(tick), GRID),
        label(AREA.left - 8, y.at(tick) + 4, tick, 'end'),
      ].join(''),
    ),
    ...x.ticks.map((tick) => label(x.at(tick), bottom + 18, tick)),
    stroke(x.at(listening), top, x.at(listening), bottom, '#59636e', 'stroke-dasharray="4 3"'),
    ...lines.map(
      ({ kind, counts }) =>
        `<polygon points="${steps(counts, slot, x, y)}" fill="${COLOURS[kind]}" fill-opacity="0.15" stroke="${COLOURS[kind]}" stroke-width="1.2"/>`,
    ),
  ];
}

/** `panels`: their titles, lines of counts by kind of client, and when the broker listens again, seconds. */
function chart(panels, names, slot) {
  const slots = Math.max(
    ...panels.flatMap(({ lines }) => lines.map(({ counts }) => counts.length)),
  );
  const seconds = Math.ceil((slots * slot) / 1000);
  const height = panels.length * PANEL + 24;
  const parts = [
    `<title>Clients that come back, each ${slot} ms</title>`,
    `<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>`,
    ...Object.entries(names).map(([kind, name], n) =>
      label(AREA.right - 170 * n, AREA.top - 10, name, 'end', COLOURS[kind]),
    ),
    ...panels.flatMap((each, place) => panel(each, place, seconds, slot)),
    label(WIDTH / 2, height - 8, 'seconds; dashed: a broker listens again'),
  ];
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" ` +
    `font-family="system-ui, sans-serif" font-size="12">\n${parts.join('\n')}\n</svg>\n`
  );
}

module.exports = chart;
