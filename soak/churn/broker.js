'use strict';

// A broker in a process of its own. Arguments: its name and the address of NATS. Without an address it is no
// cluster.

const WSMsgBroker = require('../..');
const heap = require('../requests/memory');
const { PREFIX } = require('./ids');

const SEARCH_MS = 10_000;

const [name, url] = process.argv.slice(2);
const nats = url && { servers: [url], namespace: 'churn', name };
const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...(nats && { nats }) });
const ready = () => process.send({ port: server.address().port, connected: Date.now() });
server.on(nats ? 'cluster' : 'listening', (state) => {
  if (state === undefined || state === 'connected') ready();
});

process.on('message', async (message) => {
  if (message === 'find') {
    const { ids, silent } = await server.cluster.ids({ timeout: SEARCH_MS });
    // The asking client has an id, too.
    const found = ids.filter((id) => id.startsWith(PREFIX)).length;
    process.send({ found, silent: silent.length });
  } else if (message === 'stats') {
    // Unused objects of JavaScript must not be measured.
    await heap();
    process.send({ stats: server.stats() });
  } else {
    process.disconnect();
  }
});
process.on('disconnect', () => process.exit());
