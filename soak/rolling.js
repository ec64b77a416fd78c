'use strict';

// A rolling restart under load: counts failed requests. `node soak/rolling.js`. See README.md beside this
// file.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const net = require('node:net');
const path = require('node:path');
const WSMsgBroker = require('..');
const { startNats } = require('../testkit/nats');
const { parse, run } = require('./command');

const USAGE = `usage: node soak/rolling.js [options]
  --brokers N   brokers of the cluster (default 3): each is drained and replaced once
  --clients N   clients, each of which sends and answers requests (default 60)
  --rate N      requests per second in total (default 600)
  --drain MS    maximum time of a drain (default 10000)
`;

/** Functions for the end, as `startNats` expects of a test. */
const ends = [];
const scope = { teardown: (end) => ends.push(end) };
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Starts a broker in a process of its own. Resolves when it listens. */
async function startBroker(name, url) {
  const child = fork(path.join(__dirname, 'cluster', 'broker.js'), [name, url]);
  const [{ port }] = await once(child, 'message');
  return { name, child, port };
}

/** A load balancer: each connection goes to the next broker in turn. */
async function startBalancer() {
  const targets = [];
  let turn = 0;
  const server = net.createServer((near) => {
    turn += 1;
    const { port } = targets[turn % targets.length];
    const far = net.connect({ port, host: '127.0.0.1', noDelay: true });
    near.setNoDelay(true);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ]) {
      from.pipe(to);
      from.on('error', () => {});
      from.on('close', () => to.destroy());
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { targets, server, url: `ws://127.0.0.1:${server.address().port}/` };
}

/**
 * Sends `rate` requests per second between all clients, until `stop()`, which resolves with their outcomes.
 */
function startLoad(clients, rate, phase) {
  const outcomes = new Map();
  const slow = [0, 0];
  const open = new Set();
  let count = 0;
  let next = performance.now();
  const ask = () => {
    count += 1;
    const from = clients[count % clients.length];
    const to = clients[Math.floor(Math.random() * clients.length)];
    const begun = performance.now();
    const request = from.request(count, to.id, { timeout: 10_000 }).then(
      () => 'answered',
      (error) => `${error.code}: ${error.message.replace(/"[^"]*"/, 'id')}, ${phase()}`,
    );
    const counted = request.then((outcome) => {
      const took = performance.now() - begun;
      if (took > 100) slow[0] += 1;
      if (took > 1000) slow[1] += 1;
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      open.delete(counted);
    });
    open.add(counted);
  };
  const timer = setInterval(() => {
    for (const now = performance.now(); next < now; next += 1000 / rate) ask();
  }, 5);
  const stop = async () => {
    clearInterval(timer);
    await Promise.all(open);
    return { outcomes, slow, count };
  };
  return stop;
}

async function main() {
  const options = parse(USAGE, { brokers: 3, clients: 60, rate: 600, drain: 10_000 });
  const nats = await startNats(scope);
  const balancer = await startBalancer();
  for (let n = 0; n < options.brokers; n += 1) {
    balancer.targets.push(await startBroker(`b${n}`, nats.url));
  }
  const clients = Array.from({ length: options.clients }, (_, n) => {
    const client = new WSMsgBroker(`c${n}`, balancer.url, { protocol: 2, reconnect: true });
    client.on('message', (message, response) => response?.send(message));
    client.on('error', () => {});
    return client;
  });
  await Promise.all(clients.map((client) => client.connected()));
  let phase = 'before';
  const stop = startLoad(clients, options.rate, () => phase);
  await sleep(1000);
  for (let n = 0; n < options.brokers; n += 1) {
    // As an orchestrator does: the new broker starts before the old one ends.
    const fresh = await startBroker(`b${n}+`, nats.url);
    const former = balancer.targets.shift();
    balancer.targets.push(fresh);
    const begun = Date.now();
    phase = `drain ${n}`;
    former.child.send({ drain: options.drain });
    await once(former.child, 'disconnect');
    console.log(`${former.name} drained in ${Date.now() - begun} ms`);
    phase = `after ${n}`;
    await sleep(1000);
  }
  const { outcomes, slow, count } = await stop();
  for (const [outcome, times] of outcomes) console.log(`${times}\t${outcome}`);
  console.log(
    `${count} requests, ${slow[0]} longer than 100 ms, ${slow[1]} longer than 1 s; ` +
      `failed: ${count - outcomes.get('answered')}`,
  );
  await Promise.all(clients.map((client) => client.close()));
  for (const { child } of balancer.targets) child.kill();
  balancer.server.close();
  for (const end of ends) await end();
}

run(main);
