'use strict';

// Is it growing? A line through what was measured, and how much of its slope may be chance.

/** The lowest point of each window of x: what is left when the work of a moment has gone. */
function minima(points, window) {
  const lowest = new Map();
  for (const [x, y] of points) {
    const index = Math.floor(x / window);
    if (!(lowest.get(index)?.[1] <= y)) lowest.set(index, [x, y]);
  }
  return [...lowest.entries()].sort(([a], [b]) => a - b).map(([, point]) => point);
}

/**
 * The least-squares line through points `[x, y]`, in order of x: slope, intercept, and the standard
 * error of the slope.
 *
 * What a process holds now resembles what it held a minute ago, so that n points tell less than n
 * independent ones would: the error is that of n (1 - r) / (1 + r) of them, r being the correlation
 * of neighbouring residuals.
 */
function line(points) {
  const n = points.length;
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / n;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / n;
  const spread = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  const slope = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) / spread;
  const intercept = meanY - slope * meanX;
  const residuals = points.map(([x, y]) => y - intercept - slope * x);
  const squares = residuals.reduce((sum, residual) => sum + residual ** 2, 0);
  const products = residuals.slice(1).reduce((sum, next, i) => sum + next * residuals[i], 0);
  const found = squares > 0 ? products / squares : 0;
  // Around a line that was fitted to them, residuals look less alike than they are.
  const r = Math.min(Math.max(found + (2 + 4 * found) / n, 0), MOST_ALIKE);
  const independent = Math.max((n * (1 - r)) / (1 + r), 3);
  return { slope, intercept, error: Math.sqrt(squares / (independent - 2) / spread) };
}

/** Beyond it the points would tell nothing at all. */
const MOST_ALIKE = 0.95;

module.exports = { minima, line };
