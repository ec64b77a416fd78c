'use strict';

// Hands a socket over to the addon: by its descriptor where there is one, so that JavaScript has nothing more to do with
// it, or else by a bridge.

const net = require('node:net');
const tls = require('node:tls');
const Bridge = require('./bridge');

/** The kinds of libuv's handles whose descriptor is that of the connection. That of a TLS handle is, too, but raw. */
const HANDLES = { TCP: false, Pipe: true };

/** Why a socket has no descriptor that can be handed over; undefined if it has one. */
function obstacle(socket) {
  if (socket.encrypted || socket instanceof tls.TLSSocket) {
    return 'Node.js terminates TLS';
  }
  const handle = socket._handle;
  const isKnown =
    socket instanceof net.Socket &&
    Object.hasOwn(HANDLES, handle?.constructor?.name ?? '') &&
    typeof handle.readStop === 'function';
  return isKnown && handle.fd >= 0 ? undefined : 'the socket has no file descriptor';
}

/** Takes all bytes that Node.js has received. */
function takeReceived(socket, head) {
  const chunks = [head];
  for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) {
    chunks.push(Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk, 'latin1'));
  }
  return chunks;
}

/**
 * Hands over the socket of a request. `bytes`: its head; `head`: bytes behind it; `client`: the facts for the addon;
 * `bridges`: the open bridges by number. Returns `'native'` or `'bridge'`. Throws if the system has no descriptor left,
 * or the server is closed; the socket stays open then.
 */
function handOver(native, socket, [bytes, head], client, bridges) {
  if (obstacle(socket) === undefined) {
    const handle = socket._handle;
    handle.readStop();
    const received = Buffer.concat([bytes, ...takeReceived(socket, head)]);
    native.adopt(handle.fd, HANDLES[handle.constructor.name], { ...client, bytes: received });
    socket.destroy();
    return 'native';
  }
  const bridge = new Bridge(socket, bridges);
  const received = Buffer.concat([bytes, ...takeReceived(socket, head)]);
  bridge.start(native, { ...client, bytes: received });
  return 'bridge';
}

module.exports = { handOver, obstacle };
