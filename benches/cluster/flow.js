'use strict';

// A flow of messages, as in `pipelined`: eight senders, each with a receiver of its own, on the same broker
// or on another one.

const { PAIRS, SIZES, windowOf } = require('../measures/pipelined');
const report = require('../driver/report');
const { columns, rowsOf } = require('./rows');

const RATIOS = ['messages_per_second', 'cpu_us_per_message'];

function measure(rivals, run) {
  const sizes = run.quick ? SIZES.slice(0, 1) : SIZES;
  const variants = sizes.map((size) => ({ pairs: PAIRS, size, window: windowOf(size) }));
  return rowsOf('pairs', variants, 'size', RATIOS, rivals, run);
}

function table(rows) {
  return report.table(rows, [
    ['message', (row) => `${report.integer(row.size)} B`],
    ...columns('message', [
      ['messages/s', (row) => report.throughput(row)],
      ['to nats', (row) => report.times(row.messages_per_second)],
    ]),
  ]);
}

module.exports = { name: 'flow', title: 'Pipelined', measure, table };
