'use strict';

// The broker on the other end of the link, with two clients of its own. See scene.js.

const { execFileSync } = require('node:child_process');
const readline = require('node:readline');
const WSMsgBroker = require('../../..');

const ip = (words) => execFileSync('ip', words.split(' '));
const report = (line) => process.stdout.write(`${line}\n`);
const clients = {};

async function join(address, url) {
  ip('link set lo up');
  ip(`addr add ${address}/24 dev far`);
  ip('link set far up');
  const server = new WSMsgBroker.Server({
    port: 0,
    host: '127.0.0.1',
    nats: { servers: url, name: 'there' },
  });
  // The first attempts may precede NATS.
  server.on('cluster', (state) => report(state));
  await server.ready;
  for (const id of ['x', 'y']) {
    const at = `ws://127.0.0.1:${server.address().port}/`;
    const client = await new WSMsgBroker(id, at, { protocol: 2 }).connected();
    client.on('message', (message, response) => {
      if (message === 'wait') report('asked to wait');
      else response?.send(`${id} there`);
    });
    client.on('replaced', () => report(`${id} was replaced`));
    clients[id] = client;
  }
  report('joined');
}

async function talk() {
  const { message } = await clients.x.request(1, 'y');
  if (message === 'y there') report('x and y talk');
}

const ACTIONS = { join, talk };
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [action, ...args] = line.split(' ');
  ACTIONS[action](...args);
});
report('ready');
