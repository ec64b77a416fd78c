'use strict';

// A broker and two clients that continuously exchange messages and requests, so that all threads are busy.

const { once } = require('node:events');
const WSMsgBroker = require('../..');

const IN_FLIGHT = 32;
const host = '127.0.0.1';

async function traffic() {
  const server = new WSMsgBroker.Server({ port: 0, host });
  await once(server, 'listening');
  const { port } = server.address();
  const clients = ['left', 'right'].map((id) => new WSMsgBroker(id, host, port));
  await Promise.all(clients.map((client) => once(client, 'registered')));

  let turns = 0;
  let stopped = false;
  let flowing;
  const flow = new Promise((resolve) => {
    flowing = resolve;
  });
  const goesOn = () => {
    turns += 1;
    if (turns === 20 * IN_FLIGHT) flowing();
    return !stopped;
  };
  clients.forEach((client, index) => {
    const peer = clients[1 - index].id;
    const ask = () => {
      if (goesOn()) client.send('question', peer, ask);
    };
    client.on('message', (message, response) => {
      if (!goesOn()) return;
      if (response) response.send('answer');
      else client.send(message, peer);
    });
    for (let n = 0; n < IN_FLIGHT; n += 1) client.send({ n, text: 'x'.repeat(100) }, peer);
    ask();
  });
  await flow;
  return {
    clients,
    // Messages received before a close are still delivered after it, when sending is no longer possible.
    close() {
      stopped = true;
      for (const client of clients) client.close();
      server.close();
    },
  };
}

module.exports = { traffic, host };
