'use strict';

// A chat with rooms in web pages: a web server for the page, and the broker as a process of its own. With NATS_URL, the
// address of a NATS server, two brokers form a cluster. Messages go from page to page and do not pass through this
// program.
//
//     node examples/chat/server.js     then open the page in two tabs; Ctrl-C ends it

const { fork } = require('node:child_process');
const { once } = require('node:events');
const WSMsgBroker = require('wsmsgbroker');
const servePages = require('../pages');

const { PORT = '8080', BROKER_PORT = '9042', SECOND_PORT = '9043', NATS_URL } = process.env;
const host = '127.0.0.1';
const ROOMS = 'room.*';

/** A broker. `page`: the origin of the page. */
async function serve(port, page) {
  process.on('disconnect', () => process.exit());
  const server = new WSMsgBroker.Server({
    port,
    host,
    // The token is the principal: a name belongs to the page that registered it first, also after a reconnect.
    authenticate: ({ token }) =>
      token !== undefined && {
        principal: token,
        send: [],
        publish: ROOMS,
        subscribe: ROOMS,
        presence: ROOMS,
      },
    // No other page may connect.
    allowedOrigins: [page],
    nats: NATS_URL && { servers: NATS_URL, required: true },
  });
  await server.ready;
  process.send(server.address().port);
}

/** Starts a broker as a process. */
async function startBroker(port, page) {
  const child = fork(__filename, [port, page]);
  child.once('exit', (code) => code && process.exit(code));
  const [listening] = await once(child, 'message');
  return { pid: child.pid, port: listening };
}

async function main() {
  const ports = [];
  const page = await servePages(__dirname, 'chat.mjs', PORT, () => {
    // Each page begins with another broker.
    ports.push(ports.shift());
    return { ports };
  });
  const first = await startBroker(BROKER_PORT, page);
  ports.unshift(first.port);
  console.log(`Open ${page} (the broker listens at port ${first.port})`);
  if (NATS_URL) {
    const second = await startBroker(SECOND_PORT, page);
    ports.unshift(second.port);
    console.log(`A second broker listens at port ${second.port} (process ${second.pid})`);
  }
}

const [port, page] = process.argv.slice(2);
if (port) {
  serve(port, page);
} else {
  main();
}
