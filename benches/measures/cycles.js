'use strict';

// Connections that come and go: connect, register, close, and again, 32 of them at a time.

const { columns, flows } = require('../driver/flows');
const { table: markdown } = require('../driver/report');

const VARIANTS = [{ connections: 32 }];

function measure(rivals, run) {
  // The load connects without TLS here.
  const chosen = rivals.filter(({ args }) => !args?.includes('--tls'));
  return flows('cycles', VARIANTS, ['connections'], chosen, run);
}

function table(rows) {
  return markdown(rows, [
    ['at a time', (row) => row.connections],
    ...columns('connection', 'connections'),
  ]);
}

module.exports = { name: 'cycles', title: 'Connections that come and go', measure, table };
