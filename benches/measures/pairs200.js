'use strict';

// Many pairs with one message in flight each. An arrival triggers the next message, so batches cannot form,
// and every message needs a read and a write.

const { columns, flows } = require('../driver/flows');
const { table: markdown } = require('../driver/report');

const VARIANTS = [{ pairs: 200, size: 100, window: 1 }];

function measure(rivals, run) {
  return flows('pairs', VARIANTS, ['pairs'], rivals, run);
}

function table(rows) {
  return markdown(rows, [['pairs', (row) => row.pairs], ...columns('message', 'messages')]);
}

module.exports = {
  VARIANTS,
  name: 'pairs200',
  title: 'Many pairs, a message at a time',
  measure,
  table,
};
