'use strict';

// The asker and the responder, of either class, in a process of their own.
// usage: node client.js KIND URL

const { setMaxListeners } = require('node:events');
const { ask, sizes, start } = require('./ask');
const heap = require('./memory');

const [kind, url] = process.argv.slice(2);

async function main() {
  const pair =
    kind === 'native'
      ? await start(require('../..'), url, { protocol: 2 })
      : await start(require('../../lib/browser'), url, { WebSocket: require('ws').WebSocket });
  // Shared by all requests in flight.
  setMaxListeners(0, pair.signal);
  process.on('message', async (message) => {
    if (message === 'close') {
      await Promise.all([pair.asker.close(), pair.responder.close()]);
      process.disconnect();
    } else if (message.ask) {
      process.send({ ends: await ask(pair, message.ask) });
    } else {
      process.send({ sizes: sizes(pair), heap: await heap() });
    }
  });
  process.send({ ready: true });
}

// The driver has ended.
process.on('disconnect', () => process.exit());
main();
