'use strict';

// A broker of a cluster, as a process that can be killed. Arguments: its name, the address of NATS,
// its options as JSON.

const WSMsgBroker = require('../..');

const [name, url, options = '{}'] = process.argv.slice(2);
const server = new WSMsgBroker.Server({
  port: 0,
  host: '127.0.0.1',
  ...JSON.parse(options),
  nats: { servers: [url], namespace: 'soak', name },
});
server.on('cluster', (state, reason) => {
  // One message: a process that waits for two in turn may miss the second.
  process.send(state === 'connected' ? { port: server.address()?.port } : { state, reason });
});
process.on('message', async (message) => {
  if (message === 'stats') process.send({ stats: server.stats() });
  if (message === 'ids') process.send({ ids: server.ids() });
  if (message === 'found') process.send({ found: await server.cluster.ids({ timeout: 5000 }) });
  if (message.drain) {
    await server.close({ drain: message.drain });
    process.disconnect();
  }
});
