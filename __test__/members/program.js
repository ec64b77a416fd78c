'use strict';

// A program that listens to nothing: it takes messages until one says "end", says how many errors there were when
// one says "count", and closes. Whatever its server writes, it ends by that, and by itself.

const { WebSocket } = require('ws');
const Browser = require('../../lib/browser');
const WSMsgBroker = require('../..');

const [kind, url, reconnect] = process.argv.slice(2);

async function main() {
  const options = reconnect ? { reconnect: { minDelay: 1, maxDelay: 5 } } : {};
  const client =
    kind === 'browser'
      ? new Browser('client', url, { WebSocket, ...options })
      : new WSMsgBroker('client', url, { protocol: 2, ...options });
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
