'use strict';

// Peers whose connection is open but silent: only the heartbeat can detect them (rule 21).

const { DEADLINE, LIMITS } = require('./limits');
const { frame, TEXT } = require('./wire');

/** The number of peers that become silent at a time. */
const PEERS = 8;
/** A ping arrives within twice the interval. */
const PING_WITHIN = 2 * LIMITS.pingInterval + DEADLINE;
const DEAD_WITHIN = PING_WITHIN + LIMITS.pingTimeout;

async function silence(world) {
  await Promise.all(Array.from({ length: PEERS }, () => fallSilent(world)));
}

/**
 * One peer that becomes silent with pending requests in both directions, and one that only answers pings and
 * stays connected.
 */
async function fallSilent(world) {
  const ids = [world.id(), world.id()];
  const [wire, other] = await Promise.all(ids.map((id) => world.dial(id)));
  wire.send({ action: 'send', message: 1, dest: ids, ack: world.id() });
  other.send({ action: 'send', message: 1, dest: ids, ack: world.id() });
  await Promise.all([wire.ping(), other.ping()]);
  if (world.random.chance(0.3)) {
    const answered = wire.next('ping', () => true, PING_WITHIN);
    await Promise.race([answered, world.sleep(PING_WITHIN)]);
  }
  wire.silent = true;
  let pinged;
  wire.once('ping', () => {
    pinged = Date.now();
  });
  // In the middle of a message, or between two.
  const last = frame(TEXT, JSON.stringify({ action: 'send', message: 2, dest: ids[1] }));
  const said = world.random.pick([0, world.random.int(1, last.length - 1), last.length]);
  wire.write(last.subarray(0, said));
  let code = await Promise.race([wire.ended, world.sleep(DEAD_WITHIN)]);
  if (code === undefined && world.stopping) {
    // The peer sends again. It is dead only if that is too late.
    if (said > 0) wire.write(last.subarray(said));
    code = await world.within(wire.close(), 'the end of a silent peer');
  } else {
    world.expect(code, 1006, 'a silent peer');
    const waited = Date.now() - (pinged ?? Date.now());
    // The ping may have been read late.
    if (waited < LIMITS.pingTimeout / 2) throw new Error(`dead ${waited} ms after its ping`);
  }
  if (code === 1006) world.met('dead');
  await other.ping();
  world.expect(await other.close(), 1000, 'the end of a peer that answers pings');
}

const acts = [[silence, 10]];

module.exports = { on: 'plain', acts, silence };
