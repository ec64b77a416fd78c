'use strict';

// The broker of the soak: our addon, in a process of its own, with listeners for every event and a
// memory of the last of them, as a program that logs would have. Asked, it tells what it holds.

const WSMsgBroker = require('..');
const { LIMITS } = require('./limits');

const REMEMBERED = 100;
const EVENTS = ['connection', 'registered', 'unregistered', 'warn', 'error', 'slow', 'dropped'];

const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...LIMITS });
const last = [];

for (const name of EVENTS) {
  server.on(name, (value) => {
    last.push([name, value]);
    if (last.length > REMEMBERED) last.shift();
  });
}
server.once('listening', () => process.send({ port: server.address().port }));

process.on('message', async (message) => {
  if (message === 'sample') {
    process.send({ heap: process.memoryUsage().heapUsed, stats: server.stats() });
  } else if (message === 'close') {
    await server.close();
    // Nothing keeps the process alive from here on.
    process.disconnect();
  }
});
// The driver is gone.
process.on('disconnect', () => server.close());
