'use strict';

const { once } = require('node:events');
const net = require('node:net');

/** A relay to a server that can be cut. For its clients the server is unreachable until it is mended. */
async function startRelay(t, server) {
  const { port } = server.address();
  const sockets = new Set();
  /** Functions that cut the client's half of a connection. */
  const halves = new Set();
  let isCut = false;
  let limit = Number.POSITIVE_INFINITY;
  const relay = net.createServer((near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = net.connect(port, '127.0.0.1');
    near.pipe(far, { end: false });
    if (limit === Number.POSITIVE_INFINITY) {
      far.pipe(near);
    } else {
      let left = limit;
      far.on('data', (chunk) => {
        // Cut when the last bytes are written.
        const end = () => left === 0 && near.destroy();
        if (left > 0) near.write(chunk.subarray(0, left), end);
        left = Math.max(left - chunk.length, 0);
      });
    }
    let isHalf = false;
    halves.add(() => {
      isHalf = true;
      near.destroy();
    });
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        near.destroy();
        if (!isHalf) far.destroy();
      });
    }
  });
  const cut = () => {
    isCut = true;
    for (const socket of sockets) socket.destroy();
  };
  /** Cuts the existing connections of clients. The server does not detect it. */
  const cutNear = () => {
    for (const cutHalf of halves) cutHalf();
    halves.clear();
  };
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  t.teardown(() => {
    cut();
    relay.close();
  });
  const mend = () => {
    isCut = false;
  };
  /** Cuts each further connection when the client has got so many bytes. */
  const limitTo = (bytes) => {
    limit = bytes;
  };
  return { address: () => relay.address(), cut, cutNear, mend, limitTo };
}

module.exports = { startRelay };
