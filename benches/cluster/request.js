'use strict';

// Requests of one pair, on the same broker or on two.

const report = require('../driver/report');
const { columns, rowsOf } = require('./rows');

const SIZE = 100;
const RATIOS = ['p50_us', 'p99_us', 'cpu_us_per_message'];

const measure = (rivals, run) =>
  rowsOf('request', [{ pairs: 1, size: SIZE }], 'pairs', RATIOS, rivals, run);

const table = (rows) =>
  report.table(
    rows,
    columns('request', [
      ['p50 us', (row) => report.withSpread(row.p50_us)],
      ['to nats', (row) => report.times(row.p50_us)],
      ['p99 us', (row) => report.withSpread(row.p99_us)],
      ['to nats', (row) => report.times(row.p99_us)],
    ]),
  );

module.exports = { name: 'request', title: 'Request and answer, one pair', measure, table };
