'use strict';

// Connection cycles: connect, register, close, and again, 32 at a time.

const { columns, flows } = require('../driver/flows');
const { table: markdown } = require('../driver/report');

const VARIANTS = [{ connections: 32 }];

function measure(rivals, run) {
  // The load has no TLS in this mode.
  const chosen = rivals.filter(({ args }) => !args?.includes('--tls'));
  return flows('cycles', VARIANTS, ['connections'], chosen, run);
}

function table(rows) {
  return markdown(rows, [
    ['at a time', (row) => row.connections],
    ...columns('connection', 'connections'),
  ]);
}

module.exports = { name: 'cycles', title: 'Connection cycles', measure, table };
