'use strict';

// A broker of its own. On a message it answers with its resident memory.

const WSMsgBroker = require('../..');

/** Further options, as JSON. */
const more = JSON.parse(process.argv[2] ?? '{}');
const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...more });
server.on('error', ({ message }) => console.error(message));
server.ready.then(() => process.send({ port: server.address().port }));
process.on('message', () => {
  process.send({ rss: process.memoryUsage.rss(), charged: server.stats().memory });
});
