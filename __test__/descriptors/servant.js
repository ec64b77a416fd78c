'use strict';

// A server in a process of its own: sends its port to its parent, and disconnects all clients on request.

const WSMsgBroker = require('../..');

const server = new WSMsgBroker.Server({
  port: 0,
  host: '127.0.0.1',
  ...JSON.parse(process.argv[2]),
});
server.client.connected().then(() => process.send(server.address().port));
server.client.on('message', (message) => {
  if (message === 'disconnect') {
    for (const id of server.ids()) {
      if (id !== server.id) server.disconnect(id);
    }
  }
});
process.on('disconnect', () => process.exit());
