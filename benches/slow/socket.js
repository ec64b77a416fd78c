'use strict';

// A WebSocket of our own bytes: nothing of it is to cost more than it must.

const { once } = require('node:events');
const net = require('node:net');

const HEAD =
  'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
  'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n';

/** A masked text frame; the mask is zero. */
function frame(text) {
  const payload = Buffer.from(text);
  const { length } = payload;
  const head = Buffer.alloc(length < 126 ? 6 : 8);
  head[0] = 0x81;
  if (length < 126) {
    head[1] = 0x80 | length;
  } else {
    head[1] = 0x80 | 126;
    head.writeUInt16BE(length, 2);
  }
  return Buffer.concat([head, payload]);
}

/** A registered connection; nothing waits to be read. */
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
