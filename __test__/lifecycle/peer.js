'use strict';

// A worker thread of programs.js: a client of a server outside, which answers with its id.

const { workerData } = require('node:worker_threads');
const WSMsgBroker = require('../..');

const client = new WSMsgBroker(workerData.id, workerData.host, workerData.port);
client.on('message', (_message, response) => response?.send(workerData.id));
