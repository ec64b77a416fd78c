'use strict';

// A program without listeners for errors. It receives messages until "end", reports its number of errors on
// "count", and closes. It must end in this way, and by itself, whatever its server writes.

const { WebSocket } = require('ws');

const [kind, url, reconnect] = process.argv.slice(2);

async function main() {
  const options = reconnect ? { reconnect: { minDelay: 1, maxDelay: 5 } } : {};
  // Only one of them: the client of Node.js replaces the timers of both.
  const Client = require(kind === 'browser' ? '../../lib/browser' : '../..');
  const more = kind === 'browser' ? { WebSocket } : { protocol: 2 };
  const client = new Client('client', url, { ...more, ...options });
  for await (const { message, answer } of client.messages()) {
    answer?.(1);
    if (message === 'count') {
      client.send(client.peerErrors, 'server');
    } else if (message === 'end') {
      break;
    }
  }
  await client.close();
}

main();
