'use strict';

// What most tests begin with: a server on a free port of the loopback, and clients of it.

const { once } = require('node:events');
const WSMsgBroker = require('../..');
const { lastingPort } = require('../../testkit/ports');

/** A listening server; it is closed when the test ends. */
async function startServer(t, options) {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...options });
  t.teardown(() => server.close());
  await once(server, 'listening');
  return server;
}

/** A server on a port to which it can come back. */
async function startLasting(t, options) {
  return startServer(t, { port: await lastingPort(t), ...options });
}

/** A registered client; it is closed when the test ends. */
async function startClient(t, server, id, options) {
  const client = new WSMsgBroker(id, '127.0.0.1', server.address().port, '/', options);
  t.teardown(() => client.close());
  await once(client, 'registered');
  return client;
}

/** Resolves when the server next says that this id has an owner. */
function registration(server, id) {
  return new Promise((resolve) => {
    server.on('registered', (registered) => registered === id && resolve());
  });
}

module.exports = { WSMsgBroker, registration, startServer, startClient, startLasting };
