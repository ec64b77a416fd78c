'use strict';

// Many clients that reconnect automatically, in a process of their own. Reports when each has reconnected.
// usage: node clients.js KIND PORT COUNT RECONNECT BUSY: the last two as JSON; BUSY: a request is pending throughout

const [kind, port, count, reconnect, isBusy] = process.argv
  .slice(2)
  .map((text, n) => (n ? JSON.parse(text) : text));
const url = `ws://127.0.0.1:${port}/`;
const Client = kind === 'native' ? require('../..') : require('../../lib/browser');
const options =
  kind === 'native'
    ? { protocol: 2, reconnect }
    : { WebSocket: require('ws').WebSocket, reconnect };

/** When each lost its connection and had reconnected, and the number of failed attempts. */
const lost = [];
const back = [];
let failed = 0;

async function main() {
  const clients = Array.from({ length: count }, (_, n) => new Client(`client ${n}`, url, options));
  for (const client of clients) {
    client.on('reconnecting', (attempt) => {
      if (attempt === 1) lost.push(Date.now());
      else failed += 1;
    });
    client.on('reconnected', () => {
      back.push(Date.now());
      if (back.length === count) process.send({ lost, back, failed });
    });
  }
  await Promise.all(clients.map((client) => client.connected()));
  if (isBusy) {
    const [asker, silent] = ['asker', 'silent'].map(
      (id) => new Client(id, url, { ...options, reconnect: false }),
    );
    await Promise.all([asker.connected(), silent.connected()]);
    const arrived = new Promise((resolve) => silent.on('message', resolve));
    asker.request('?', 'silent', { timeout: Infinity }).catch(() => {});
    await arrived;
  }
  process.send({ ready: true });
}

process.on('message', () => process.disconnect());
process.on('disconnect', () => process.exit());
main();
