'use strict';

// One sender, and subscribers of its topic at another broker.

const report = require('../driver/report');
const { columns, rowsOf } = require('./rows');

const RATIOS = ['messages_per_second', 'cpu_us_per_message'];
// The window counts messages that the last receiver does not have yet.
const VARIANTS = [
  { receivers: 1, size: 100, window: 512 },
  { receivers: 100, size: 100, window: 32 },
];

function measure(rivals, run) {
  return rowsOf('fanout', VARIANTS, 'receivers', RATIOS, rivals, run);
}

function table(rows) {
  return report.table(rows, [
    ['subscribers', (row) => report.integer(row.receivers)],
    ...columns('delivery', [
      ['deliveries/s', (row) => report.throughput(row)],
      ['to nats', (row) => report.times(row.messages_per_second)],
    ]),
  ]);
}

module.exports = { name: 'fanout', title: 'Topics', measure, table };
