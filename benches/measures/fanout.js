'use strict';

// One sender and many receivers that receive every message: an array of ids, a subject, or a room.

const { columns, flows } = require('../driver/flows');
const { COMPARED, among } = require('../driver/rounds');
const { integer, table: markdown } = require('../driver/report');

// The window counts messages that the last receiver does not have yet.
const VARIANTS = [
  { receivers: 100, size: 100, window: 32 },
  { receivers: 1000, size: 100, window: 8 },
];

function measure(rivals, run) {
  const variants = run.quick ? VARIANTS.slice(0, 1) : VARIANTS;
  const chosen = among(rivals, run, ...COMPARED, 'wsmsgbroker-topic', 'ws8-corked');
  return flows('fanout', variants, ['receivers'], chosen, run);
}

function table(rows) {
  return markdown(rows, [
    ['receivers', (row) => integer(row.receivers)],
    ...columns('delivery', 'deliveries'),
  ]);
}

module.exports = { name: 'fanout', title: 'Fan-out', measure, table };
