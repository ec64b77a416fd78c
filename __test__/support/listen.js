'use strict';

const { once } = require('node:events');

/** Makes a server listen on a free port. It is closed, with its connections, when the test ends. Returns the port. */
async function listen(t, server) {
  const sockets = new Set();
  for (const event of ['connection', 'secureConnection']) {
    server.on(event, (socket) => {
      sockets.add(socket);
      socket.on('error', () => {});
    });
  }
  server.listen(0, '127.0.0.1');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  await once(server, 'listening');
  return server.address().port;
}

module.exports = listen;
