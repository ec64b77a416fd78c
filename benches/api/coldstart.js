'use strict';

// Measures the milliseconds from `require` to a listening server in a fresh process: `coldstart.js RIVAL`.

const rivals = require('./rivals');

const start = performance.now();
const { Server } = rivals[process.argv[2]]();
const server = new Server({ port: 0, host: '127.0.0.1' });
server.on('error', (error) => {
  console.error(error);
  process.exit(1);
});
server.on('listening', () => process.send({ ms: performance.now() - start }));
process.on('disconnect', () => process.exit());
