'use strict';

// A broker that is killed and restarted under the traffic of reconnecting clients. All guarantees must hold.

const { setTimeout: pause } = require('node:timers/promises');
const test = require('ava');
const Random = require('../testkit/random');
const Program = require('./faults/program');
const Ledger = require('./restarts/ledger');
const Peer = require('./restarts/peer');
const { kinds, open, awaited } = require('./support/clients');
const { lastingPort } = require('../testkit/ports');

const RESTARTS = 50;
const LATE_MS = 60_000;
const POLL_MS = 2;
/** Before every fifth kill, all promises must have settled. */
const CALM_EVERY = 5;

/** Valid outcomes of a promise: its broker was killed, or the receiver has not reconnected yet. */
const LOST = ['ERR_WSMB_CONNECTION_LOST', 'UNKNOWN_ID'];
const EXPECTED = {
  deliver: [...LOST, 'fine'],
  request: [...LOST, 'fine'],
  requestAll: [...LOST, 'fine'],
  'resent request': ['UNKNOWN_ID', 'fine'],
  'resent requestAll': ['UNKNOWN_ID', 'fine'],
};

async function until(what, isTrue) {
  const deadline = Date.now() + LATE_MS;
  while (!(await isTrue())) {
    if (Date.now() > deadline) throw new Error(`timeout: ${what()}`);
    await pause(POLL_MS);
  }
}

/** A broker on this port, as soon as the port is free. */
async function startBroker(t, port) {
  const program = new Program('broker.js', JSON.stringify({ port }));
  t.teardown(() => program.kill());
  ({ port: program.port } = await program.hear('port'));
  return program;
}

/** Clients of both kinds, some of which resend their requests. */
function startPeers(t, port, ledger) {
  const casts = kinds.flatMap((kind) =>
    [0, 1, 2].map((n) => ({ kind, id: `${kind} ${n}`, isResending: n === 2 })),
  );
  const ids = casts.map(({ id }) => id);
  return casts.map(({ kind, id, isResending }) => {
    const resend = isResending ? 'requests' : 'never';
    const reconnect = { minDelay: 5, maxDelay: 20 };
    const client = open(t, kind, id, `ws://127.0.0.1:${port}/`, { reconnect, resend });
    const others = ids.filter((other) => other !== id);
    return new Peer({ id, client, isResending, others, ledger, random: new Random('peer', id) });
  });
}

const each = (peers, visit) => {
  for (const { id, others, connection } of peers) {
    for (const to of others) visit(id, to, connection);
  }
};

/** Stops all peers and waits until all promises since the start of the broker have settled. */
async function calm(peers, ledger) {
  for (const peer of peers) peer.hush();
  await until(
    () => `all has settled: ${JSON.stringify([...ledger.open])}`,
    () => ledger.open.size === 0,
  );
  // Sent after all others: on these connections, every earlier message has arrived with these.
  await Promise.all(peers.map((peer) => peer.deliver(peer.others)));
  const missing = () => {
    const found = [];
    each(peers, (from, to, connection) => found.push(...ledger.missing(from, to, connection)));
    return found;
  };
  await until(
    () => JSON.stringify(missing()),
    () => missing().length === 0,
  );
}

test('a ledger reports violations only', (t) => {
  const faults = (...events) => {
    const ledger = new Ledger();
    for (const [name, ...args] of events) ledger[name]('a', 'b', ...args);
    return ledger.faults.length;
  };
  const heard = (connection, n, once) => ['arrive', connection, { n, once }];
  t.is(faults(heard(1, 1, 1), heard(1, 2), heard(1, 3, 2)), 0);
  // The last message is lost with the broker, and a request is repeated.
  t.is(faults(heard(1, 1, 1), heard(1, 2), heard(2, 2), heard(2, 4, 3)), 0);
  t.true(faults(heard(1, 1, 1), heard(1, 1, 1)) > 0);
  t.true(faults(heard(1, 1, 1), heard(2, 1, 1)) > 0);
  t.true(faults(heard(1, 1, 1), heard(1, 3, 3)) > 0);
  t.true(faults(heard(1, 2, 2), heard(1, 1, 1)) > 0);
  t.true(faults(heard(1, 2), heard(1, 2)) > 0);
  t.true(faults(['told', 1, false, 1], heard(1, 1, 1)) > 0);
  t.true(faults(heard(1, 1, 1), ['told', 1, false, 1]) > 0);
  const ledger = new Ledger();
  ledger.told('a', 'b', 1, true, 7);
  t.is(ledger.missing('a', 'b', 7).length, 1);
  t.is(ledger.missing('a', 'b', 8).length, 0);
});

test(`guarantees hold while a broker is killed and restarted ${RESTARTS} times under traffic`, async (t) => {
  t.timeout(3 * LATE_MS);
  const ledger = new Ledger();
  const random = new Random('restarts', 'driver');
  const port = await lastingPort(t);
  let broker = await startBroker(t, port);
  const peers = startPeers(t, port, ledger);
  for (const peer of peers) {
    t.teardown(() => peer.hush());
    peer.talk();
  }

  for (let n = 1; n <= RESTARTS; n += 1) {
    // Waits for the port.
    const successor = startBroker(t, port);
    if (n % CALM_EVERY === 0) {
      await until(
        () => 'all are up',
        () => peers.every(({ isUp }) => isUp),
      );
      await calm(peers, ledger);
    } else if (random.chance(0.2)) {
      // While clients reconnect.
      await until(
        () => 'one is up',
        () => peers.some(({ isUp }) => isUp),
      );
    } else {
      await until(
        () => 'all talk',
        () => {
          let count = 0;
          each(peers, (from, to) => {
            const { isUp, connection } = peers.find(({ id }) => id === to);
            count += isUp && ledger.hasHeard(from, to, connection);
          });
          return count === peers.length * (peers.length - 1);
        },
      );
    }
    await broker.kill();
    for (const peer of peers) peer.talk();
    broker = await successor;
    t.deepEqual(ledger.faults, []);
  }

  await until(
    () => 'all are up',
    () => peers.every(({ isUp }) => isUp),
  );
  await calm(peers, ledger);
  t.deepEqual(ledger.faults, []);
  t.deepEqual(
    peers.map(({ client }) => awaited(client)),
    peers.map(() => 0),
  );
  const { stats } = await broker.hear('stats', { ask: true });
  t.like(stats, { registered: peers.length, pending: 0, slow: 0, violations: 0, errors: 0 });

  const lost = [];
  each(peers, (from, to) => lost.push(...ledger.missing(from, to)));
  const { outcomes, arrived, repeated } = ledger;
  t.log({ ...outcomes, arrived, repeated, 'delivered, and lost with the broker': lost.length });
  t.true(repeated > 0);
  for (const [what, ends] of Object.entries(EXPECTED)) {
    const found = Object.keys(outcomes)
      .filter((name) => name.startsWith(`${what}: `))
      .flatMap((name) => name.slice(what.length + 2).split(', '));
    t.deepEqual([...new Set(found)].sort(), ends, what);
  }
});
