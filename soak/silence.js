'use strict';

// Peers that are still there, and say nothing any more: only the heartbeat finds out (rule 21).

const { DEADLINE, LIMITS } = require('./limits');
const { frame, TEXT } = require('./wire');

/** How many fall silent at a time. */
const PEERS = 8;
/** A ping comes before twice the interval is over. */
const PING_WITHIN = 2 * LIMITS.pingInterval + DEADLINE;
const DEAD_WITHIN = PING_WITHIN + LIMITS.pingTimeout;

async function silence(world) {
  await Promise.all(Array.from({ length: PEERS }, () => fallSilent(world)));
}

/** One that falls silent, with requests open both ways, and one that only answers pings, and lives. */
async function fallSilent(world) {
  const ids = [world.id(), world.id()];
  const [wire, other] = await Promise.all(ids.map((id) => world.dial(id)));
  wire.tell({ action: 'send', message: 1, dest: ids, ack: world.id() });
  other.tell({ action: 'send', message: 1, dest: ids, ack: world.id() });
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
  // In the midst of a message, or between two.
  const last = frame(TEXT, JSON.stringify({ action: 'send', message: 2, dest: ids[1] }));
  const said = world.random.pick([0, world.random.int(1, last.length - 1), last.length]);
  wire.write(last.subarray(0, said));
  let code = await Promise.race([wire.ended, world.sleep(DEAD_WITHIN)]);
  if (code === undefined && world.stopping) {
    // It speaks again, and is dead only if that is too late.
    if (said > 0) wire.write(last.subarray(said));
    code = await world.within(wire.close(), 'the end of one that was silent');
  } else {
    world.expect(code, 1006, 'one that is silent');
    const waited = Date.now() - (pinged ?? Date.now());
    // The ping may have been read late.
    if (waited < LIMITS.pingTimeout / 2) throw new Error(`dead ${waited} ms after its ping`);
  }
  if (code === 1006) world.met('dead');
  await other.ping();
  world.expect(await other.close(), 1000, 'the end of one that answers pings');
}

const acts = [[silence, 10]];

module.exports = { on: 'plain', acts, silence };
