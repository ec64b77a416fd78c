'use strict';

// Ports for what cannot begin with port 0.

const { randomInt } = require('node:crypto');
const dgram = require('node:dgram');
const { once } = require('node:events');
const net = require('node:net');

/** Ports below those that systems give to whoever does not ask for a certain one. */
const [LOWEST, HIGHEST] = [20_000, 32_000];

/** Resolves with whether nobody had this port of UDP, which the socket now has. */
async function binds(socket, port) {
  const bound = once(socket, 'listening');
  socket.bind(port, '127.0.0.1');
  try {
    await bound;
    return true;
  } catch (error) {
    if (error.code !== 'EADDRINUSE') throw error;
    return false;
  }
}

/**
 * Resolves with whether nobody listens there. It is not tried by listening: what is closed again would
 * still listen in a process that another test is forking at that moment.
 */
async function refuses(port) {
  const socket = net.connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return false;
  } catch (error) {
    if (error.code !== 'ECONNREFUSED') throw error;
    return true;
  } finally {
    socket.destroy();
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
    if ((await binds(claim, port)) && (await refuses(port))) {
      t.teardown(() => claim.close());
      return port;
    }
    claim.close();
  }
}

module.exports = { lastingPort };
