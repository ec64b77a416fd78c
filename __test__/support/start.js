'use strict';

// What most tests begin with: a server on a free port of the loopback, and clients of it.

const { randomInt } = require('node:crypto');
const dgram = require('node:dgram');
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

/** Resolves with whether nobody had this port, by a socket that now has it. */
async function binds(socket, bind) {
  const bound = once(socket, 'listening');
  bind();
  try {
    await bound;
    return true;
  } catch (error) {
    if (error.code !== 'EADDRINUSE') throw error;
    return false;
  }
}

/**
 * A free port that nobody takes while nobody listens there, until the test ends: another server can be
 * where one was. Among tests, also those of other threads and processes, who has it is who has the port of
 * UDP with its number, which nobody else here wants.
 */
async function lastingPort(t) {
  while (true) {
    const port = randomInt(LOWEST, HIGHEST);
    const claim = dgram.createSocket('udp4');
    const probe = net.createServer();
    const isFree =
      (await binds(claim, () => claim.bind(port, '127.0.0.1'))) &&
      (await binds(probe, () => probe.listen(port, '127.0.0.1')));
    if (probe.listening) await new Promise((resolve) => probe.close(resolve));
    if (isFree) {
      t.teardown(() => claim.close());
      return port;
    }
    claim.close();
  }
}

/** A server on such a port. */
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

module.exports = { WSMsgBroker, registration, startServer, startClient, lastingPort, startLasting };
