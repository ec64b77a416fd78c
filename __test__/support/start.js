'use strict';

// A server on a free port of the loopback, and clients of it, for most tests.

const { once } = require('node:events');
const WSMsgBroker = require('../..');
const { lastingPort } = require('../../testkit/ports');

/** A listening server. It is closed when the test ends. */
async function startServer(t, options) {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...options });
  t.teardown(() => server.close());
  await once(server, 'listening');
  return server;
}

/** A server on a port on which it can be restarted. */
async function startLasting(t, options) {
  return startServer(t, { port: await lastingPort(t), ...options });
}

/** A registered client. It is closed when the test ends. */
async function startClient(t, server, id, options) {
  const client = new WSMsgBroker(id, '127.0.0.1', server.address().port, '/', options);
  t.teardown(() => client.close());
  await once(client, 'registered');
  return client;
}

/** Resolves when the server next emits registered for this id. */
function registration(server, id) {
  return new Promise((resolve) => {
    server.on('registered', (registered) => registered === id && resolve());
  });
}

module.exports = { WSMsgBroker, registration, startServer, startClient, startLasting };
