'use strict';

// The rivals of the Node API: two classes with one interface each, loaded on demand.
//
// new Client(id, host, port)      'registered', 'message (message, response, from)', 'error'
// client.send(message, dest[, (from, answer) => ...]), response.send(answer)
// new Server({ port, host })      'listening', 'warn', 'error'; server.address()

function ours() {
  const WSMsgBroker = require('../..');
  return { Client: WSMsgBroker, Server: WSMsgBroker.Server };
}

module.exports = {
  wsmsgbroker: ours,
  ws8: () => require('./ws8')(false),
  'ws8-corked': () => require('./ws8')(true),
  original: () => require('./original')({ compress: true }),
  'original-uncompressed': () => require('./original')({ compress: false }),
  socketio: () => require('./socketio'),
};
