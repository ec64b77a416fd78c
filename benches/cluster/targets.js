'use strict';

// Targets for a cluster. Like the other targets, all are ratios within one run.

const { atLeast, atMost, divide, placed, targets } = require('../driver/targets');

const RATE = 'messages_per_second';
/** Flows: their measurement, the selected rows, and their name. */
const FLOWS = [
  ['flow', { size: 100 }, '100 B'],
  ['flow', { size: 1024 }, '1 KB'],
  ['flow', { size: 16_384 }, '16 KB'],
  ['pairs200', {}, '200 pairs'],
];

const flow = ([kind, where], one, field, other) =>
  placed(kind, where, (rowOf) => divide(rowOf(one), rowOf(other), field));

/** The ratio of the processor time per message on one of two brokers to that on a single broker. */
const cost = ([kind, where], field) =>
  placed(kind, where, (rowOf) => {
    const [two, one] = [rowOf('cluster-2-apart')?.[field], rowOf('cluster-2')?.sender_us];
    return divide({ cost: two }, { cost: one }, 'cost');
  });

/** The time of a hop: half of a request's round trip on one broker. */
const across = placed('request', {}, (rowOf) => {
  const [two, one, nats] = ['cluster-2-apart', 'cluster-2', 'nats'].map(
    (name) => rowOf(name)?.p50_us?.median,
  );
  const value = two / (2 * nats + one / 2);
  return Number.isFinite(value) ? value : undefined;
});

const forFlows = (goal) => FLOWS.map((one) => goal(one, one[2]));

const TARGETS = [
  ...forFlows((one, text) =>
    atLeast(
      `between two brokers, ${text}, to nats`,
      0.3,
      0.5,
      flow(one, 'cluster-2-apart', RATE, 'nats'),
    ),
  ),
  ...forFlows((one, text) =>
    atMost(`CPU at the sender's broker, ${text}, to local`, 3, null, cost(one, 'sender_us')),
  ),
  ...forFlows((one, text) =>
    atMost(`CPU at the receiver's broker, ${text}, to local`, 3, null, cost(one, 'receiver_us')),
  ),
  ...forFlows((one, text) =>
    atLeast(
      `local in a cluster, ${text}, to single`,
      0.9,
      null,
      flow(one, 'cluster-1', RATE, 'single'),
    ),
  ),
  atMost('p50 across brokers to two of nats and a local hop', 1, null, across),
  ...forFlows((one, text) =>
    atLeast(
      `between two brokers, ${text}, to socketio-apart`,
      null,
      1,
      flow(one, 'cluster-2-apart', RATE, 'socketio-apart'),
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
