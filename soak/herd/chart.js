'use strict';

// The number of reconnected clients per slot of time as an SVG, with a panel for each way in which the broker
// ended.

const { GRID, QUIET, axis, path, stroke, svg, text } = require('../../testkit/chart');

const WIDTH = 960;
const PANEL = 190;
const AREA = { left: 60, right: 930, top: 34, bottom: 150 };
const COLOURS = { native: '#1f6feb', browser: '#9a6700' };

/** The outline of the counts. */
function steps(counts, slot, x, y) {
  const edges = counts.flatMap((count, n) => [
    [n, count],
    [n + 1, count],
  ]);
  const outline = [[0, 0], ...edges, [counts.length, 0]];
  return path(outline.map(([edge, count]) => [x.at((edge * slot) / 1000), y.at(count)]));
}

function panel({ title, lines, listening }, place, seconds, slot) {
  const [top, bottom] = [AREA.top, AREA.bottom].map((at) => at + place * PANEL);
  const x = axis({ end: seconds, parts: 12 }, AREA.left, AREA.right);
  const most = Math.max(...lines.flatMap(({ counts }) => counts));
  const y = axis({ most, parts: 4 }, bottom, top);
  return [
    text(AREA.left, top - 10, title, { anchor: 'start' }),
    ...y.ticks.map((tick) =>
      [
        stroke(AREA.left, y.at(tick), AREA.right, y.at(tick), GRID),
        text(AREA.left - 8, y.at(tick) + 4, tick, { anchor: 'end' }),
      ].join(''),
    ),
    ...x.ticks.map((tick) => text(x.at(tick), bottom + 18, tick)),
    stroke(x.at(listening), top, x.at(listening), bottom, QUIET, {
      more: 'stroke-dasharray="4 3"',
    }),
    ...lines.map(
      ({ kind, counts }) =>
        `<polygon points="${steps(counts, slot, x, y)}" fill="${COLOURS[kind]}" fill-opacity="0.15" stroke="${COLOURS[kind]}" stroke-width="1.2"/>`,
    ),
  ];
}

/**
 * `panels`: title, lines of counts by kind of client, and the time in seconds at which the next broker
 * listens.
 */
function chart(panels, names, slot) {
  const slots = Math.max(
    ...panels.flatMap(({ lines }) => lines.map(({ counts }) => counts.length)),
  );
  const seconds = Math.ceil((slots * slot) / 1000);
  const height = panels.length * PANEL + 24;
  const parts = [
    ...Object.entries(names).map(([kind, name], n) =>
      text(AREA.right - 170 * n, AREA.top - 10, name, { anchor: 'end', fill: COLOURS[kind] }),
    ),
    ...panels.flatMap((each, place) => panel(each, place, seconds, slot)),
    text(WIDTH / 2, height - 8, 'seconds; dashed: the next broker listens'),
  ];
  return svg(`Reconnected clients per ${slot} ms`, { width: WIDTH, height }, parts);
}

module.exports = chart;
