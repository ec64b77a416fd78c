'use strict';

// Many pairs with one message in flight each, as in `pairs200`: batches cannot form, so every message between
// two brokers is a packet of its own.

const { VARIANTS } = require('../measures/pairs200');
const report = require('../driver/report');
const { columns, rowsOf } = require('./rows');

const RATIOS = ['messages_per_second', 'cpu_us_per_message'];

const measure = (rivals, run) => rowsOf('pairs', VARIANTS, 'pairs', RATIOS, rivals, run);

const table = (rows) =>
  report.table(
    rows,
    columns('message', [
      ['messages/s', (row) => report.throughput(row)],
      ['to nats', (row) => report.times(row.messages_per_second)],
    ]),
  );

module.exports = { name: 'pairs200', title: 'Many pairs, a message at a time', measure, table };
