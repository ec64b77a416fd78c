'use strict';

// How a broker process and the driver talk. The address goes out once as JSON, with what the load needs
// besides, by the names of its options: the protocol to speak, the token that clients must show, the
// authority that they must trust; where a child does the work, its pid; and where brokers find it, if it is
// between them. On standard input, "gc" is answered when a full collection is done, "spin MS" once JavaScript
// has been busy for so long; its end ends the process.

const readline = require('node:readline');

const say = (words) => process.stdout.write(`${JSON.stringify(words)}\n`);

const orders = {
  gc() {
    if (global.Bun) global.Bun.gc(true);
    else global.gc();
    say({ gc: true });
  },

  /** Times are those of the wall clock: the load has no other in common with this process. */
  spin(millis) {
    const from = Date.now();
    while (Date.now() - from < millis);
    say({ from, to: Date.now() });
  },
};

function announce({ port, scheme = 'ws', path = '/', ...needed }) {
  say({ url: `${scheme}://127.0.0.1:${port}${path}`, ...needed });
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const [order, argument] = line.split(' ');
    orders[order](Number(argument));
  });
  lines.on('close', () => process.exit(0));
}

module.exports = { announce };
