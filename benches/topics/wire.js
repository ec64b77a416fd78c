'use strict';

// A connection of the load: frames that are encoded once, and counted as they come.

const { randomBytes } = require('node:crypto');
const { once } = require('node:events');
const net = require('node:net');

/** A masked text frame. The mask is zero, so that the text stays as it is. */
function frame(text) {
  const payload = Buffer.from(text);
  const { length } = payload;
  const head = length < 126 ? Buffer.alloc(6) : Buffer.alloc(8);
  head[0] = 0x81;
  if (length < 126) {
    head[1] = 0x80 | length;
  } else {
    head[1] = 0x80 | 126;
    head.writeUInt16BE(length, 2);
  }
  return Buffer.concat([head, payload]);
}

/**
 * Opens a connection and registers with the frame `register`, until the `response` has come. Its events are `'data'`, of
 * frames that are not masked.
 */
async function openWith(port, register, response) {
  const socket = net.connect(port, '127.0.0.1').setNoDelay();
  await once(socket, 'connect');
  const key = randomBytes(16).toString('base64');
  socket.write(
    `GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
  );
  // Some servers refuse frames that come with the handshake.
  await received(socket, '\r\n\r\n');
  socket.write(frame(register));
  await received(socket, response);
  return socket;
}

/** Opens a connection and registers an id. */
function open(port, id) {
  return openWith(port, `{"action":"register","id":"${id}","protocol":2}`, '"registered"');
}

/** Resolves once a text has come. */
async function received(socket, text) {
  let all = '';
  while (!all.includes(text)) {
    const [chunk] = await once(socket, 'data');
    all += chunk.toString('latin1');
  }
}

/** Resolves once so many more bytes have come. */
function bytes(socket, count) {
  let left = count;
  return new Promise((resolve) => {
    const count = (chunk) => {
      left -= chunk.length;
      if (left <= 0) {
        socket.off('data', count);
        resolve();
      }
    };
    socket.on('data', count);
  });
}

module.exports = { bytes, frame, open, openWith };
