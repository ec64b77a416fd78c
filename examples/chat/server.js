'use strict';

// A chat of browsers: its broker, its page, and a client that tells everybody who is there. What people say
// goes from page to page: this program never sees it.
//
//     node examples/chat/server.js     then open the page in two tabs; Ctrl-C ends it

const { randomUUID } = require('node:crypto');
const { once } = require('node:events');
const WSMsgBroker = require('wsmsgbroker');
const servePages = require('../pages');

const { PORT = '8080', BROKER_PORT = '9042' } = process.env;
const host = '127.0.0.1';

async function main() {
  const page = await servePages(__dirname, 'chat.mjs', PORT, () => ({
    port: server.address().port,
  }));
  const server = new WSMsgBroker.Server({
    port: BROKER_PORT,
    host,
    // A name is for the first who comes with it, and for nobody else until it is free: whoever has its
    // token is the same again. That holds for our own, too.
    authenticate: ({ token }) => token !== undefined && { principal: token },
    // No other page may connect.
    allowedOrigins: [page],
  });
  await once(server, 'listening');

  const { port } = server.address();
  const room = new WSMsgBroker('room', host, port, '/', { token: randomUUID() });
  const people = new Set();
  const tell = (change) => (name) => {
    if (name !== room.id) {
      people[change](name);
      room.send([...people], [...people]);
    }
  };
  server.on('registered', tell('add'));
  server.on('unregistered', tell('delete'));
  console.log(`Open ${page} (the broker listens at port ${port})`);
}

main();
