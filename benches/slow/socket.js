'use strict';

// A WebSocket with handwritten frames, to use little processor time.

const { once } = require('node:events');
const net = require('node:net');
const kit = require('../../testkit/frames');

const HEAD =
  'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
  'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';

/** A text frame of a client with a mask of zero. */
const frame = (text) => kit.frame(kit.FIN | kit.TEXT, text, { mask: kit.ZERO_MASK });

/** A registered connection with no unread bytes. */
async function connect(port, id) {
  const socket = net.connect(Number(port), '127.0.0.1');
  socket.setNoDelay(true);
  socket.on('error', () => {});
  await once(socket, 'connect');
  socket.write(HEAD);
  await once(socket, 'data');
  socket.write(frame(JSON.stringify({ action: 'register', id })));
  await once(socket, 'data');
  return socket;
}

module.exports = { frame, connect };
