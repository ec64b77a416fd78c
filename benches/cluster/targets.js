'use strict';

// What a cluster is to reach. As of the other targets, all are ratios within one run.

const { atLeast, atMost, divide, placed, targets } = require('../driver/targets');

const RATE = 'messages_per_second';
const SIZES = [
  [100, '100 B'],
  [1024, '1 KB'],
  [16_384, '16 KB'],
];

const flow = (size, one, field, other) =>
  placed('flow', { size }, (rowOf) => divide(rowOf(one), rowOf(other), field));

/** What a message costs at one of the two brokers that it passes, to what it costs where it passes one. */
const cost = (size, field) =>
  placed('flow', { size }, (rowOf) => {
    const [two, one] = [rowOf('cluster-2-apart')?.[field], rowOf('cluster-2')?.sender_us];
    return divide({ cost: two }, { cost: one }, 'cost');
  });

/** A hop: half of what a request and its answer take at one broker. */
const across = placed('request', {}, (rowOf) => {
  const [two, one, nats] = ['cluster-2-apart', 'cluster-2', 'nats'].map(
    (name) => rowOf(name)?.p50_us?.median,
  );
  const value = two / (2 * nats + one / 2);
  return Number.isFinite(value) ? value : undefined;
});

const forSizes = (goal) => SIZES.map(([size, text]) => goal(size, text));

const TARGETS = [
  ...forSizes((size, text) =>
    atLeast(
      `between two brokers, ${text}, to nats`,
      0.3,
      0.5,
      flow(size, 'cluster-2-apart', RATE, 'nats'),
    ),
  ),
  ...forSizes((size, text) =>
    atMost(`CPU at the sender's broker, ${text}, to local`, 3, null, cost(size, 'sender_us')),
  ),
  ...forSizes((size, text) =>
    atMost(`CPU at the receiver's broker, ${text}, to local`, 3, null, cost(size, 'receiver_us')),
  ),
  ...forSizes((size, text) =>
    atLeast(
      `local in a cluster, ${text}, to single`,
      0.9,
      null,
      flow(size, 'cluster-1', RATE, 'single'),
    ),
  ),
  atMost('p50 across brokers to two of nats and a local hop', 1, null, across),
  ...forSizes((size, text) =>
    atLeast(
      `between two brokers, ${text}, to socketio-apart`,
      null,
      1,
      flow(size, 'cluster-2-apart', RATE, 'socketio-apart'),
    ),
  ),
  atMost(
    'p50 across brokers to socketio-apart',
    null,
    1,
    placed('request', {}, (rowOf) =>
      divide(rowOf('cluster-2-apart'), rowOf('socketio-apart'), 'p50_us'),
    ),
  ),
];

module.exports = { targets: (results) => targets(results, TARGETS), TARGETS };
