'use strict';

// Order of messages to topics in a cluster, when a broker has connected to NATS again.

const test = require('ava');
const { join } = require('./support/clients');
const { acquainted, startBroker, state } = require('./support/cluster');
const { startNats } = require('../testkit/nats');
const Line = require('../soak/cluster/line');

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when the condition holds. */
async function until(isTrue) {
  while (!isTrue()) await pause(10);
}

const numbers = (from, count) => Array.from({ length: count }, (_, n) => from + n);

/** A subscription, with what it has got: `ready`, numbers, and the number of messages in gaps. */
async function subscriber(client, pattern) {
  const got = { isReady: false, messages: [], lost: 0 };
  const subscription = await client.subscribe(pattern);
  subscription.on('message', (message) => {
    if (message === 'ready') got.isReady = true;
    else got.messages.push(message);
  });
  subscription.on('gap', ({ lost }) => {
    got.lost += lost;
  });
  return got;
}

// Rules 36.8 and 37.6.
test('messages that reach NATS by the former connection of their broker, after later ones, are in a gap', async (t) => {
  const nats = await startNats(t);
  const line = await new Line(() => nats.port).open();
  t.teardown(() => line.close());
  const [sends, receives] = await Promise.all([
    startBroker(t, { url: `nats://127.0.0.1:${line.port}` }, { nats: { name: 'sends' } }),
    startBroker(t, nats, { nats: { name: 'receives' } }),
  ]);
  await acquainted([sends, receives]);
  const publisher = await join(t, 'addon', sends, 'publisher');
  const reader = await join(t, 'addon', receives, 'reader');
  const several = await join(t, 'addon', receives, 'several');
  const all = [
    await subscriber(reader, 'one'),
    // Several subscriptions of NATS match.
    await subscriber(several, 'two.*'),
    await subscriber(several, 'two.x'),
    await subscriber(reader, 'two.>'),
  ];
  const publish = (message) => {
    publisher.publish(message, 'one');
    publisher.publish(message, 'two.x');
  };
  while (!all.every(({ isReady }) => isReady)) {
    publish('ready');
    await pause(10);
  }

  const [down, again] = [state(sends, 'disconnected'), state(sends, 'connected')];
  line.freeze();
  for (const n of numbers(0, 10)) publish(n);
  await down;
  await again;
  for (const n of numbers(10, 10)) publish(n);
  await until(() => all.every(({ messages }) => messages.includes(19)));
  line.thaw();
  await until(() => all.every((got) => got.lost >= 10));
  publish(20);
  await until(() => all.every(({ messages }) => messages.includes(20)));
  for (const { messages, lost } of all) {
    t.deepEqual(messages, numbers(10, 11));
    t.is(lost, 10);
  }
  t.is(receives.stats().cluster.late, 20);
});
