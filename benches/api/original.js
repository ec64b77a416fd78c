'use strict';

// wsmsgbroker 1.7.2 as it was shipped, or without the compression that its two sides negotiate. Its server
// has no option for the address or for compression, so both are set on its inner `ws` 1. Its clients then
// offer compression, and the server declines it.

const { createRequire } = require('node:module');
const Client = require('wsmsgbroker');

const ws = createRequire(require.resolve('wsmsgbroker'))('ws');

function classes({ compress }) {
  const options = { host: '127.0.0.1', ...(!compress && { perMessageDeflate: false }) };
  ws.Server = class extends ws.Server {
    constructor(given) {
      super({ ...given, ...options });
    }
  };

  class Server extends Client.Server {
    constructor({ port }) {
      super(port);
      this.wss.on('listening', () => this.emit('listening'));
    }

    address() {
      return this.wss._server.address();
    }
  }

  return { Client, Server };
}

module.exports = classes;
