'use strict';

// One process of the measurement: `worker.js RIVAL ROLE`. A `broker` has the server, `clients` have both
// clients, `both` has all three. It executes commands of its parent and sends the results. It ends with its
// parent.

const { once } = require('node:events');
const rivals = require('./rivals');
const scenarios = require('./scenarios');

const HOST = '127.0.0.1';
const [, , rival, role] = process.argv;
const { Client, Server } = rivals[rival]();

function fail(error) {
  console.error(error.stack ?? error);
  process.exit(1);
}

async function serve() {
  const server = new Server({ port: 0, host: HOST });
  // No measurement causes warnings.
  server.on('warn', fail);
  server.on('error', fail);
  await once(server, 'listening');
  return server.address().port;
}

async function connect(id, port) {
  const client = new Client(id, HOST, port);
  client.on('error', fail);
  client.on('close', (why) => fail(new Error(`${id} was closed with ${why}`)));
  await once(client, 'registered');
  return client;
}

let clients;
const commands = {
  async start({ port }) {
    port ??= await serve();
    if (role !== 'broker') {
      clients = [await connect('first', port), await connect('second', port)];
    }
    return { port };
  },
  run: ({ scenario, seconds }) => scenarios[scenario](...clients, seconds),
  cpu() {
    const { user, system } = process.cpuUsage();
    return { microseconds: user + system };
  },
};

process.on('message', async ({ command, ...options }) => {
  try {
    process.send(await commands[command](options));
  } catch (error) {
    fail(error);
  }
});
process.on('disconnect', () => process.exit());
