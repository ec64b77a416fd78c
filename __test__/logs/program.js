'use strict';

// A broker with a client that does everything that is logged. `process.send` sends 'done' when all of it has happened.
// With the argument `throw` it has a logger that
// throws or rejects. Prints nothing itself.

const { once } = require('node:events');
const WSMsgBroker = require('../..');

async function main([mode]) {
  const logger = {
    info() {
      throw new Error('the logger is broken');
    },
    async debug() {
      throw new Error('the logger rejects');
    },
  };
  const options = mode === 'throw' ? { logger } : {};
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...options });
  await server.ready;
  const client = new WSMsgBroker('a\nforged', `ws://127.0.0.1:${server.address().port}`);
  await client.connected();
  client.send('payload', 'nobody');
  client.close();
  await once(client, 'close');
  await server.close();
  process.send?.('done', () => process.disconnect());
}

main(process.argv.slice(2));
