'use strict';

// A broker with authentication as a process that can be suspended. Arguments: its name, the address of NATS.
// The token is the principal.

const WSMsgBroker = require('../..');

const [name, url] = process.argv.slice(2);
const server = new WSMsgBroker.Server({
  port: 0,
  host: '127.0.0.1',
  authenticate: ({ token }) => ({ principal: token }),
  nats: { servers: [url], name, required: true },
});
server.on('listening', () => process.send({ port: server.address().port }));
