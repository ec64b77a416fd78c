'use strict';

// A process that is killed from outside: some clients that exchange messages, with pending requests.
//
// node victim.js PORT NAME

const { once } = require('node:events');
const WSMsgBroker = require('..');
const Plain = require('./plain');

const [port, name] = process.argv.slice(2);
const CLIENTS = 6;
const TALK_EVERY = 20;

async function main() {
  const ids = Array.from({ length: CLIENTS }, (_, index) => `${name}-${index}`);
  const clients = ids.map((id, index) =>
    index % 2 === 0
      ? new Plain(id, { port: Number(port) })
      : new WSMsgBroker(id, '127.0.0.1', Number(port)),
  );
  await Promise.all(clients.map((client) => once(client, 'registered')));
  setInterval(() => {
    for (const client of clients) {
      client.send('x'.repeat(1000), ids);
      client.send('never answered', ids, () => {});
    }
  }, TALK_EVERY);
  process.send('ready');
}

process.on('disconnect', () => process.exit());
main();
