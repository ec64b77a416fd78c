'use strict';

// Communication of a broker process with the driver. The process prints its address once as JSON, with
// options for the load by their names: the protocol, the token of clients, the trusted authority; the pid of
// a child that does the work; and the address for brokers, if it connects them. It answers "gc" on standard
// input after a full garbage collection, and "spin MS" after JavaScript was busy for that time. It ends with
// its standard input.

const readline = require('node:readline');

const say = (words) => process.stdout.write(`${JSON.stringify(words)}\n`);

const orders = {
  gc() {
    if (global.Bun) global.Bun.gc(true);
    else global.gc();
    say({ gc: true });
  },

  /** Times are those of the wall clock, the only clock that the load shares with this process. */
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
