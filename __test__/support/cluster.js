'use strict';

// A cluster of brokers with a NATS server for a test.

const { once } = require('node:events');
const { startServer } = require('./start');
const { startNats } = require('../../testkit/nats');

/** Resolves when the cluster of a server next reaches this state. */
function state(server, wanted) {
  return new Promise((resolve) => {
    server.on('cluster', function heard(is) {
      if (is === wanted) {
        server.off('cluster', heard);
        resolve();
      }
    });
  });
}

/** A broker that is connected to NATS. */
async function startBroker(t, nats, options) {
  const { nats: more, ...others } = options ?? {};
  const servers = [nats].flat().map(({ url }) => url);
  const server = await startServer(t, { nats: { servers, required: true, ...more }, ...others });
  return server;
}

/** Resolves when all of these brokers know each other. */
async function acquainted(brokers) {
  const knows = () => brokers.every((broker) => broker.cluster.brokers().length === brokers.length);
  while (!knows()) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A cluster of this many brokers that know each other, and their NATS server. */
async function startCluster(t, count, options) {
  const nats = await startNats(t);
  const starting = Array.from({ length: count }, (_, n) =>
    startBroker(t, nats, { ...options, nats: { name: `b${n}`, ...options?.nats } }),
  );
  const brokers = await Promise.all(starting);
  await acquainted(brokers);
  return { nats, brokers };
}

module.exports = { state, startBroker, startCluster, acquainted, once };
