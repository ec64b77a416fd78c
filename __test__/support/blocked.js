'use strict';

// A worker thread with a server that admits no clients, and that blocks on request until `blocked` is set.

const { parentPort, workerData } = require('node:worker_threads');
const WSMsgBroker = require('../..');

const { blocked, authenticateTimeout } = workerData;
let asked = 0;
const authenticate = () => {
  asked += 1;
  return false;
};
const server = new WSMsgBroker.Server({
  port: 0,
  host: '127.0.0.1',
  authenticate,
  authenticateTimeout,
});
server.on('listening', () => parentPort.postMessage(server.address().port));
parentPort.on('message', (what) => {
  if (what === 'count') {
    parentPort.postMessage(asked);
    return;
  }
  parentPort.postMessage('blocking');
  Atomics.wait(blocked, 0, 0);
});
