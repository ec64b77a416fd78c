'use strict';

const { once } = require('node:events');
const net = require('node:net');

/** A line to a server that can be cut: for the clients on it, the server is gone until it is mended. */
async function startRelay(t, server) {
  const { port } = server.address();
  const sockets = new Set();
  /** Each cuts the client's half of a line. */
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
  /** Of the lines that there are: the server does not notice. */
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
