'use strict';

// Ports for what cannot begin with port 0.

const { randomInt } = require('node:crypto');
const dgram = require('node:dgram');
const { once } = require('node:events');
const net = require('node:net');

/** Ports below those that systems assign as ephemeral ports. */
const [LOWEST, HIGHEST] = [20_000, 32_000];

/** Resolves with whether this UDP port was free; the socket is then bound to it. */
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
 * Resolves with whether no process listens there. The test does not listen itself: a socket that is closed again
 * would still listen in a process that another test is forking at that moment.
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
 * A free port that is reserved until the test ends, also while no server listens there, so that a server can be
 * restarted. Reserved among all tests, threads and processes by binding the UDP port with the same number, which
 * nothing else uses here.
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
