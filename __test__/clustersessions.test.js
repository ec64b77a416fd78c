'use strict';

// Sessions in a cluster: a client that comes back to another broker registers anew.

const { once } = require('node:events');
const test = require('ava');
const { join, kinds, open, failure } = require('./support/clients');
const { startCluster } = require('./support/cluster');
const { startRelay } = require('./support/relay');

const RECONNECT = { minDelay: 5, maxDelay: 20 };

for (const kind of kinds) {
  test(`${kind}: a session continues at its broker, and ends when its client is back at another`, async (t) => {
    const { brokers } = await startCluster(t, 2, { sessionTimeout: 30_000 });
    const relays = await Promise.all(brokers.map((broker) => startRelay(t, broker)));
    const urls = relays.map((relay) => `ws://127.0.0.1:${relay.address().port}/`);
    let target = 0;
    const client = open(t, kind, 'client', () => urls[target], { reconnect: RECONNECT });
    await client.connected();
    const peer = await join(t, kind, brokers[1], 'peer');
    const taken = [];
    client.on('message', (message) => taken.push(message));

    const suspended = once(brokers[0], 'disconnected');
    relays[0].cut();
    await suspended;
    // To others the id is still there.
    t.deepEqual((await peer.deliver(1, 'client')).delivered, ['client']);
    const resumed = once(client, 'resumed');
    relays[0].mend();
    await resumed;
    while (taken.length < 1) await new Promise(setImmediate);

    const again = once(brokers[0], 'disconnected');
    relays[0].cut();
    await again;
    const pending = failure(peer.request('?', 'client'));
    while (brokers[0].stats().pending === 0) await new Promise(setImmediate);
    target = 1;
    const [registered, gone] = [once(client, 'registered'), once(brokers[0], 'unregistered')];
    await Promise.all([registered, gone]);
    t.is((await pending).code, 'REPLACED');
    t.is(brokers[0].stats().sessions, 0);
    t.deepEqual((await peer.deliver(2, 'client')).delivered, ['client']);
    while (taken.length < 2) await new Promise(setImmediate);
    t.deepEqual(taken, [1, 2]);
  });
}
