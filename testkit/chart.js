'use strict';

// Parts of charts in SVG: text, lines, axes, and the picture around them.

const INK = '#1f2328';
const QUIET = '#59636e';
const GRID = '#d0d7de';

const escaped = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.codePointAt(0)};`);

/** A place on the picture, in pixels. */
const pixel = (value) => value.toFixed(1);

/** Points `[x, y]` as polylines and polygons take them. */
const path = (points) => points.map(([x, y]) => `${pixel(x)},${pixel(y)}`).join(' ');

/** `more` is added to the attributes. */
function text(x, y, words, { anchor = 'middle', fill = INK, more = '' } = {}) {
  const place = `x="${pixel(x)}" y="${pixel(y)}" text-anchor="${anchor}" fill="${fill}"`;
  return `<text ${place} ${more}>${escaped(words)}</text>`;
}

/** A straight line. */
function stroke(x1, y1, x2, y2, colour, { width = 1, more = '' } = {}) {
  const from = `x1="${pixel(x1)}" y1="${pixel(y1)}"`;
  const to = `x2="${pixel(x2)}" y2="${pixel(y2)}"`;
  return `<line ${from} ${to} stroke="${colour}" stroke-width="${width}" ${more}/>`;
}

function polyline(points, colour, width) {
  return `<polyline points="${path(points)}" fill="none" stroke="${colour}" stroke-width="${width}"/>`;
}

/** A round step that divides `most` into about this many parts. */
function step(most, parts) {
  const rough = most / parts;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

/** A linear axis from 0 to `end`, or to a round number above `most`, between two pixels. */
function axis({ most, end, parts = 6 }, from, to) {
  const each = step(end ?? Math.max(most, 1), parts);
  const last = end ?? Math.ceil(Math.max(most, 1) / each) * each;
  const ticks = Array.from({ length: Math.floor(last / each) + 1 }, (_, index) => index * each);
  return { ticks, at: (value) => from + ((to - from) * value) / last };
}

/** The picture: `title` is what assistive technology reads. */
function svg(title, { width, height }, parts) {
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" ` +
    `font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="12">\n` +
    `<title>${escaped(title)}</title>\n<rect width="${width}" height="${height}" fill="#ffffff"/>\n` +
    `${parts.join('\n')}\n</svg>\n`
  );
}

module.exports = { GRID, QUIET, axis, path, polyline, stroke, svg, text };
