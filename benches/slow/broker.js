'use strict';

// The broker, with a report of its counters and memory.

const WSMsgBroker = require('../..');

const server = new WSMsgBroker.Server({
  port: 0,
  host: '127.0.0.1',
  slowConsumer: process.argv[2],
});
const slow = [];
server.on('slow', (_id, why) => slow.push(why));
server.on('listening', () => process.send(server.address().port));
process.on('message', () => {
  process.send({ rss: process.memoryUsage.rss(), stats: server.stats(), slow });
});
