'use strict';

// The broker of faults.test.js. Its options come as JSON. With `throws`, every listener throws. Sends its
// port, then answers questions.

const WSMsgBroker = require('../..');
const block = require('./block');

const RETRY_MS = 25;
const EVENTS = ['connection', 'registered', 'unregistered', 'warn', 'slow'];
const { throws, ...options } = JSON.parse(process.argv[2]);

/** How often each event was emitted, and how many exceptions of listeners were caught. */
const heard = Object.fromEntries(EVENTS.map((event) => [event, 0]));
let caught = 0;
process.on('uncaughtException', () => {
  caught += 1;
});

listen();

function listen() {
  const server = new WSMsgBroker.Server({ host: '127.0.0.1', ...options });
  for (const event of EVENTS) {
    server.on(event, () => {
      heard[event] += 1;
      if (throws) throw new Error(event);
    });
  }
  server.on('error', ({ code }) => {
    // Another connection may use the port of a killed broker for a moment.
    if (code === 'EADDRINUSE') setTimeout(listen, RETRY_MS);
  });
  server.on('listening', () => {
    process.on('message', (command) => {
      if (command.block) block();
      else if (command.close) server.close().then(() => process.disconnect());
      else process.send({ stats: server.stats(), heard, caught });
    });
    process.send({ port: server.address().port });
  });
}
