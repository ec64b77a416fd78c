'use strict';

// A flow of messages: eight senders, each with a receiver of its own.

const { columns, flows } = require('../driver/flows');
const { COMPARED, among } = require('../driver/rounds');
const { integer, table: markdown } = require('../driver/report');

const PAIRS = 8;
const SIZES = [100, 1024, 16_384];
// Messages in flight per pair: enough for batches to form, small enough to avoid queues of seconds and the
// limits at which brokers slow a sender down.
const windowOf = (size) => Math.min(512, Math.floor((1024 * 1024) / size));

async function measure(rivals, run) {
  const sizes = run.quick ? SIZES.slice(0, 1) : SIZES;
  const rows = [];
  for (const cpus of run.placements) {
    const variants = sizes.map((size) => ({ cpus, pairs: PAIRS, size, window: windowOf(size) }));
    // With shared processors, only the rivals in targets are measured.
    const chosen = cpus === run.placements[0] ? rivals : among(rivals, run, ...COMPARED);
    rows.push(...(await flows('pairs', variants, ['size', 'cpus'], chosen, run)));
  }
  return rows;
}

function table(rows) {
  return markdown(rows, [
    ['message', (row) => `${integer(row.size)} B`],
    ['processors', (row) => row.cpus],
    ...columns('message', 'messages'),
  ]);
}

module.exports = { PAIRS, SIZES, name: 'pipelined', title: 'Pipelined', measure, table, windowOf };
