'use strict';

// What most tests begin with: a server on a free port of the loopback, and clients of it.

const { randomInt } = require('node:crypto');
const { once } = require('node:events');
const net = require('node:net');
const WSMsgBroker = require('../..');

/** Ports below those that systems give to whoever does not ask for a certain one. */
const [LOWEST, HIGHEST] = [20_000, 32_000];

/** A listening server; it is closed when the test ends. */
async function startServer(t, options) {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...options });
  t.teardown(() => server.close());
  await once(server, 'listening');
  return server;
}

/** A free port that nobody takes while nobody listens there: another server can be where one was. */
async function lastingPort() {
  while (true) {
    const probe = net.createServer();
    const listening = once(probe, 'listening');
    probe.listen(randomInt(LOWEST, HIGHEST), '127.0.0.1');
    try {
      await listening;
    } catch (error) {
      if (error.code !== 'EADDRINUSE') throw error;
      continue;
    }
    const { port } = probe.address();
    await new Promise((resolve) => probe.close(resolve));
    return port;
  }
}

/** A server on such a port. */
async function startLasting(t, options) {
  return startServer(t, { port: await lastingPort(), ...options });
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

module.exports = { WSMsgBroker, registration, startServer, startClient, lastingPort, startLasting };
