'use strict';

// How a broker process and the driver talk: the address goes out once as JSON, with what clients need
// besides: the token that they must show, the authority that they must trust. "gc" on standard input is
// answered when a full collection is done, the end of standard input ends the process.

const readline = require('node:readline');

function announce({ port, scheme = 'ws', token, ca }) {
  const url = `${scheme}://127.0.0.1:${port}/`;
  process.stdout.write(`${JSON.stringify({ url, token, ca })}\n`);

  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    if (line !== 'gc') return;
    global.gc();
    process.stdout.write(`${JSON.stringify({ gc: true })}\n`);
  });
  lines.on('close', () => process.exit(0));
}

module.exports = { announce };
