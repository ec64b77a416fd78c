'use strict';

// The broker in a process of its own. Reports its counters and memory on request.

const WSMsgBroker = require('../..');
const heap = require('./memory');

const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
server.on('listening', () => process.send({ port: server.address().port }));

process.on('message', async (message) => {
  if (message === 'sample') {
    process.send({ heap: await heap(), stats: server.stats() });
  } else {
    await server.close();
    process.disconnect();
  }
});
// The driver has ended.
process.on('disconnect', () => server.close());
