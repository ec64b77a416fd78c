'use strict';

// A chat of browsers: its broker and its page. The broker tells everybody who is there; what people say goes
// from page to page, and this program never sees it.
//
//     node examples/chat/server.js     then open the page in two tabs; Ctrl-C ends it

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
    // Under this name it takes part itself.
    id: 'room',
    // Any other name is for the first who comes with it, and for nobody else until it is free: whoever has
    // its token is the same again.
    authenticate: ({ token }) => token !== undefined && { principal: token },
    // No other page may connect.
    allowedOrigins: [page],
  });
  const tell = () => {
    const people = server.ids().filter((id) => id !== server.id);
    server.send(people.sort(), people);
  };
  server.on('registered', tell);
  server.on('unregistered', tell);
  await server.ready;
  console.log(`Open ${page} (the broker listens at port ${server.address().port})`);
}

main();
