'use strict';

// Well-behaved clients on the server with TLS and tokens: the acts of the plain server, and those for TLS and
// tokens. The list at the end is as in traffic.js.

const { once } = require('node:events');
const { CERTIFICATE_EVERY, DEADLINE } = require('./limits');
const { inSeconds } = require('./token');
const { MIXTURES, bursts, churn, length, pairs, questions, takeOvers } = require('./traffic');

/** The lifetime of the tokens of `renewals` in seconds: far more than a busy machine needs to renew one. */
const SHORT = 30;
/** The longest time between two renewals, ms. */
const RENEW_WITHIN = 8000;

/** Tokens that are renewed on the open connection during traffic before they expire (rule 22.6). */
async function renewals(world) {
  await Promise.all(MIXTURES.map((mixture) => renewing(world, ...mixture)));
}

async function renewing(world, fromPlain, toPlain) {
  const claims = () => ({ exp: inSeconds(SHORT) });
  const from = await world.client(fromPlain, world.id(), claims());
  const to = await world.client(toPlain, world.id(), claims());
  const stream = world.ledger.stream(`${from.id} to ${to.id}`);
  to.on('message', (message) => stream.arrive(message));
  const send = () => {
    for (let left = world.random.int(1, 20); left > 0; left -= 1) {
      from.send(stream.next(length(world.random)), to.id);
    }
  };
  while (!world.stopping) {
    send();
    const renewed = [from, to].map((client) => once(client, 'registered'));
    for (const client of [from, to]) client.register(world.token(client.id, claims()));
    send();
    await world.within(Promise.all(renewed), 'a renewal');
    await world.sleep(world.random.int(0, RENEW_WITHIN));
  }
  await stream.settled();
  await Promise.all([from.close(), to.close()]);
}

/** The server changes its certificate: new connections get the new one, old connections stay open. */
async function certificates(world) {
  const old = await world.dial(world.id());
  const before = shown(old);
  const late = Date.now() + CERTIFICATE_EVERY + DEADLINE;
  let now = before;
  while (now === before && !world.stopping) {
    if (Date.now() > late) throw new Error('the certificate stays the same');
    await world.sleep(2000);
    const wire = await world.dial();
    now = shown(wire);
    world.expect(await wire.close(), 1000, 'the end of a connection that reads the certificate');
  }
  await old.ping();
  world.expect(await old.close(), 1000, 'the end of a connection with the old certificate');
}

/** The certificate that a connection received. */
function shown({ socket }) {
  return socket.getPeerCertificate().fingerprint256;
}

const acts = [
  [pairs, 0],
  [questions, 0],
  [bursts, 3],
  [churn, 200],
  [takeOvers, 0],
  [renewals, 0],
  [certificates, 0],
];

module.exports = { on: 'secure', acts };
