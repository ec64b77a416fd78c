'use strict';

// A broker on a given port in a process of its own. Listens, reports and drains on request.

const WSMsgBroker = require('../..');

const RETRY_MS = 5;
let server;

function listen(port) {
  server = new WSMsgBroker.Server({ port, host: '127.0.0.1' });
  server.on('listening', () => process.send({ port: server.address().port, at: Date.now() }));
  server.on('error', ({ code }) => {
    // Another connection may use the port for a moment.
    if (code === 'EADDRINUSE') setTimeout(listen, RETRY_MS, port);
  });
}

process.on('message', (message) => {
  if (message.listen !== undefined) {
    listen(message.listen);
  } else if (message.drain) {
    server.close({ drain: message.drain }).then(() => process.send({ drained: Date.now() }));
    process.send({ closing: Date.now() });
  } else {
    // Reports its counters, or drains.
    if (message === 'stats') process.send({ stats: server.stats() });
    else process.disconnect();
  }
});
process.on('disconnect', () => process.exit());
