'use strict';

// A worker thread with a server, which starts a long drain on request.

const { parentPort } = require('node:worker_threads');
const WSMsgBroker = require('../..');

const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
server.on('listening', () => parentPort.postMessage(server.address().port));
parentPort.on('message', () => {
  server.close({ drain: 3_600_000 });
  parentPort.postMessage('draining');
});
