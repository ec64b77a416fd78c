'use strict';

// A worker thread of programs.js: starts traffic, then ends or is ended in the requested way.

const { parentPort, workerData } = require('node:worker_threads');
const { traffic } = require('./traffic');

const started = traffic();
if (workerData === 'while opening') parentPort.postMessage('opening');
else {
  started.then(() => {
    if (workerData === 'by process.exit') process.exit(1);
    parentPort.postMessage('flowing');
  });
}
