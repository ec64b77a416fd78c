'use strict';

// How a broker process and the driver talk: the port goes out once as JSON, with the token that clients
// must show if there is one, "gc" on standard
// input is answered when a full collection is done, the end of standard input ends the process.

const readline = require('node:readline');

function announce(port, token) {
  process.stdout.write(`${JSON.stringify({ port, token })}\n`);

  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    if (line !== 'gc') return;
    global.gc();
    process.stdout.write(`${JSON.stringify({ gc: true })}\n`);
  });
  lines.on('close', () => process.exit(0));
}

module.exports = { announce };
