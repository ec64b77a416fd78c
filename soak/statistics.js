'use strict';

// Detects growth: a line through measured points, with the standard error of its slope.

/** The lowest point of each window of x, without short-lived peaks. */
function minima(points, window) {
  const lowest = new Map();
  for (const [x, y] of points) {
    const index = Math.floor(x / window);
    if (!(lowest.get(index)?.[1] <= y)) lowest.set(index, [x, y]);
  }
  return [...lowest.entries()].sort(([a], [b]) => a - b).map(([, point]) => point);
}

/**
 * The least-squares line through points `[x, y]`, in order of x: slope, intercept, and the standard error of
 * the slope.
 *
 * Successive measurements of memory are correlated, so that n points carry less information than n
 * independent ones. The error is that of n (1 - r) / (1 + r) points, where r is the correlation of
 * neighbouring residuals.
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
  // Residuals of a fitted line look less correlated than the noise is.
  const r = Math.min(Math.max(found + (2 + 4 * found) / n, 0), MOST_ALIKE);
  const independent = Math.max((n * (1 - r)) / (1 + r), 3);
  return { slope, intercept, error: Math.sqrt(squares / (independent - 2) / spread) };
}

/** Above it the points would carry no information. */
const MOST_ALIKE = 0.95;

module.exports = { minima, line };
