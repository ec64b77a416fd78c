'use strict';

// A flow of messages: eight senders, each to a receiver of its own.

const { columns, flows } = require('../driver/flows');
const { integer, table: markdown } = require('../driver/report');

const PAIRS = 8;
const SIZES = [100, 1024, 16_384];
// What is under way for each pair: enough for batches to form, small enough to be no queue of
// seconds, and far from the limits at which brokers slow a sender down.
const windowOf = (size) => Math.min(512, Math.floor((1024 * 1024) / size));

function measure(rivals, run) {
  const sizes = run.quick ? SIZES.slice(0, 1) : SIZES;
  const variants = run.placements.flatMap((cpus) =>
    sizes.map((size) => ({ cpus, pairs: PAIRS, size, window: windowOf(size) })),
  );
  return flows('pairs', variants, ['size', 'cpus'], rivals, run);
}

function table(rows) {
  return markdown(rows, [
    ['message', (row) => `${integer(row.size)} B`],
    ['processors', (row) => row.cpus],
    ...columns('message', 'messages'),
  ]);
}

module.exports = { name: 'pipelined', title: 'Pipelined', measure, table };
