'use strict';

// Memory and descriptors over time, as an SVG: memory on the left axis, descriptors on the right.

const WIDTH = 960;
const HEIGHT = 420;
const AREA = { left: 70, right: 890, top: 40, bottom: 360 };
const MEMORY = '#1f6feb';
const DESCRIPTORS = '#9a6700';
const SLOPE = '#cf222e';
const GRID = '#d0d7de';

/** A round step that divides `most` into about this many. */
function step(most, parts) {
  const rough = most / parts;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

/** An axis from 0 to `end`, or to a round number above `most`. */
function axis({ most, end, parts = 6 }, from, to) {
  const each = step(end ?? Math.max(most, 1), parts);
  end ??= Math.ceil(Math.max(most, 1) / each) * each;
  const ticks = Array.from({ length: Math.floor(end / each) + 1 }, (_, index) => index * each);
  return { ticks, at: (value) => from + ((to - from) * value) / end };
}

const label = (x, y, text, anchor = 'middle', fill = '#1f2328') =>
  `<text x="${x}" y="${y}" text-anchor="${anchor}" fill="${fill}">${text}</text>`;
const stroke = (x1, y1, x2, y2, colour, more = '') =>
  `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${colour}" ${more}/>`;

function polyline(points, x, y, colour) {
  const places = points.map(([at, value]) => `${x.at(at).toFixed(1)},${y.at(value).toFixed(1)}`);
  return `<polyline points="${places.join(' ')}" fill="none" stroke="${colour}" stroke-width="1.2"/>`;
}

/**
 * `memory` (MiB) and `descriptors` are points `[minute, value]`, `lowest` the minima to which `fit` was
 * fitted; `warmUp` is where that begins.
 */
function chart({ title, memory, descriptors, lowest, fit, warmUp }) {
  const most = (points) => points.reduce((highest, [, value]) => Math.max(highest, value), 0);
  const lastMinute = memory.at(-1)[0];
  const x = axis({ end: lastMinute, parts: 12 }, AREA.left, AREA.right);
  const left = axis({ most: most(memory) }, AREA.bottom, AREA.top);
  const right = axis({ most: most(descriptors) }, AREA.bottom, AREA.top);
  const warm = x.at(warmUp);
  const parts = [
    `<title>Memory and descriptors over time: ${title}</title>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    `<rect x="${AREA.left}" y="${AREA.top}" width="${warm - AREA.left}" height="${AREA.bottom - AREA.top}" fill="#f6f8fa"/>`,
    label(AREA.left + 6, AREA.top + 16, 'warm-up', 'start', '#59636e'),
    ...left.ticks.map((tick) =>
      [
        stroke(AREA.left, left.at(tick), AREA.right, left.at(tick), GRID),
        label(AREA.left - 8, left.at(tick) + 4, tick, 'end', MEMORY),
      ].join(''),
    ),
    ...right.ticks.map((tick) =>
      label(AREA.right + 8, right.at(tick) + 4, tick, 'start', DESCRIPTORS),
    ),
    ...x.ticks.map((tick) =>
      [
        stroke(x.at(tick), AREA.bottom, x.at(tick), AREA.bottom + 5, '#59636e'),
        label(x.at(tick), AREA.bottom + 20, tick),
      ].join(''),
    ),
    polyline(descriptors, x, right, DESCRIPTORS),
    polyline(memory, x, left, MEMORY),
    ...lowest.map(
      ([at, value]) =>
        `<circle cx="${x.at(at).toFixed(1)}" cy="${left.at(value).toFixed(1)}" r="2" fill="${SLOPE}"/>`,
    ),
    label(AREA.left, 22, 'resident memory (MiB)', 'start', MEMORY),
    label(AREA.right, 22, 'open descriptors', 'end', DESCRIPTORS),
    label(WIDTH / 2, 22, title),
    label(WIDTH / 2, HEIGHT - 14, 'minutes'),
  ];
  if (fit) {
    const y = (at) => left.at(fit.intercept + fit.slope * at);
    const bold = 'stroke-width="2"';
    parts.push(stroke(warm, y(warmUp), x.at(lastMinute), y(lastMinute), SLOPE, bold));
  }
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" ` +
    `font-family="system-ui, sans-serif" font-size="12">\n${parts.join('\n')}\n</svg>\n`
  );
}

module.exports = Object.assign(chart, { axis, label, stroke });
