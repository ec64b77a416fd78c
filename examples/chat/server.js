'use strict';

// A chat in web pages: the broker and a web server for the page. The broker publishes who is online; messages go
// from page to page and do not pass through this program.
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
    // The id of the server's own client.
    id: 'room',
    // The token is the principal: a name belongs to the page that registered it first, also after a reconnect.
    authenticate: ({ token }) => token !== undefined && { principal: token },
    // The origin of the page: no other page may connect.
    allowedOrigins: [page],
  });
  const publish = () => {
    const people = server.ids().filter((id) => id !== server.id);
    server.send(people.sort(), people);
  };
  server.on('registered', publish);
  server.on('unregistered', publish);
  await server.ready;
  console.log(`Open ${page} (the broker listens at port ${server.address().port})`);
}

main();
