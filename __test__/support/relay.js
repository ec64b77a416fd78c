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
  const relay = net.createServer((near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = net.connect(port, '127.0.0.1');
    near.pipe(far, { end: false });
    far.pipe(near);
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
  return { address: () => relay.address(), cut, cutNear, mend };
}

module.exports = { startRelay };
