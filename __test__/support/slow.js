'use strict';

// A client that is registered and reads nothing.

const net = require('node:net');
const { setTimeout: sleep } = require('node:timers/promises');
const { frame, upgrade } = require('./upgrade');

/** Registers an id of a server at a socket that is not read; resolves with the socket. */
async function startSlow(t, server, id) {
  const socket = net.connect(server.address().port, '127.0.0.1').pause();
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  socket.write(upgrade('/'));
  socket.write(frame({ action: 'register', id }));
  while (!server.has(id)) await sleep(5);
  return socket;
}

module.exports = { startSlow };
