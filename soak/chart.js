'use strict';

// Memory and descriptors over time, as an SVG: memory on the left axis, descriptors on the right.

const { GRID, QUIET, axis, polyline, stroke, svg, text } = require('../testkit/chart');

const WIDTH = 960;
const HEIGHT = 420;
const AREA = { left: 70, right: 890, top: 40, bottom: 360 };
const MEMORY = '#1f6feb';
const DESCRIPTORS = '#9a6700';
const SLOPE = '#cf222e';

/**
 * `memory` (MiB) and `descriptors` are points `[minute, value]`. `lowest`: the minima to which `fit` was
 * fitted, from the minute `warmUp` on.
 */
function chart({ title, memory, descriptors, lowest, fit, warmUp }) {
  const most = (points) => points.reduce((highest, [, value]) => Math.max(highest, value), 0);
  const lastMinute = memory.at(-1)[0];
  const x = axis({ end: lastMinute, parts: 12 }, AREA.left, AREA.right);
  const left = axis({ most: most(memory) }, AREA.bottom, AREA.top);
  const right = axis({ most: most(descriptors) }, AREA.bottom, AREA.top);
  const warm = x.at(warmUp);
  const places = (points, y) => points.map(([at, value]) => [x.at(at), y.at(value)]);
  const parts = [
    `<rect x="${AREA.left}" y="${AREA.top}" width="${warm - AREA.left}" height="${AREA.bottom - AREA.top}" fill="#f6f8fa"/>`,
    text(AREA.left + 6, AREA.top + 16, 'warm-up', { anchor: 'start', fill: QUIET }),
    ...left.ticks.map((tick) =>
      [
        stroke(AREA.left, left.at(tick), AREA.right, left.at(tick), GRID),
        text(AREA.left - 8, left.at(tick) + 4, tick, { anchor: 'end', fill: MEMORY }),
      ].join(''),
    ),
    ...right.ticks.map((tick) =>
      text(AREA.right + 8, right.at(tick) + 4, tick, { anchor: 'start', fill: DESCRIPTORS }),
    ),
    ...x.ticks.map((tick) =>
      [
        stroke(x.at(tick), AREA.bottom, x.at(tick), AREA.bottom + 5, QUIET),
        text(x.at(tick), AREA.bottom + 20, tick),
      ].join(''),
    ),
    polyline(places(descriptors, right), DESCRIPTORS, 1.2),
    polyline(places(memory, left), MEMORY, 1.2),
    ...lowest.map(
      ([at, value]) =>
        `<circle cx="${x.at(at).toFixed(1)}" cy="${left.at(value).toFixed(1)}" r="2" fill="${SLOPE}"/>`,
    ),
    text(AREA.left, 22, 'resident memory (MiB)', { anchor: 'start', fill: MEMORY }),
    text(AREA.right, 22, 'open descriptors', { anchor: 'end', fill: DESCRIPTORS }),
    text(WIDTH / 2, 22, title),
    text(WIDTH / 2, HEIGHT - 14, 'minutes'),
  ];
  if (fit) {
    const y = (at) => left.at(fit.intercept + fit.slope * at);
    parts.push(stroke(warm, y(warmUp), x.at(lastMinute), y(lastMinute), SLOPE, { width: 2 }));
  }
  const name = `Memory and descriptors over time: ${title}`;
  return svg(name, { width: WIDTH, height: HEIGHT }, parts);
}

module.exports = chart;
