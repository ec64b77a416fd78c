'use strict';

// Members of topics and ids that are online, and what the watchers at all brokers know of them.

const { setTimeout: sleep } = require('node:timers/promises');

const POLL_MS = 50;

const text = (map) => JSON.stringify([...map].sort());

class Rooms {
  /** The truth: the members of each room, with their info, by id. */
  #rooms = new Map();
  #online = new Set();
  /** Functions that compare what one watch knows: they return undefined, or how it differs. */
  #watches = [];
  #changes = 0;
  comparisons = 0;
  /** The longest time in which all watches were right again, in milliseconds. */
  longest = 0;
  faults = [];

  constructor(names) {
    for (const name of names) this.#rooms.set(name, new Map());
  }

  /** Subscribes a new client again, if its id is a member. */
  async setUp(actor, client) {
    this.#online.add(actor.id);
    actor.membership = undefined;
    const info = this.#rooms.get(actor.room)?.get(actor.id);
    if (info) actor.membership = await client.subscribe(actor.room, { info });
  }

  /** An actor joins, changes its info, or leaves. */
  step(actor, random) {
    return actor.exclusive(async () => {
      if (actor.isDead) return;
      const { client, room, id, membership } = actor;
      const members = this.#rooms.get(room);
      this.#changes += 1;
      if (membership && random(4) === 0) {
        actor.membership = undefined;
        members.delete(id);
        await membership.unsubscribe();
        return;
      }
      const info = { change: this.#changes };
      members.set(id, info);
      actor.membership = await client.subscribe(room, { info });
      // The client still subscribes: this has no effect on the membership.
      await membership?.unsubscribe();
    });
  }

  /** A client has been killed. */
  died({ id, room }) {
    this.#online.delete(id);
    this.#rooms.get(room)?.delete(id);
  }

  /** Adds what this client watches: all rooms, and these ids. */
  async watch(client, ids) {
    for (const [name, members] of this.#rooms) {
      const watch = await client.presence(name);
      this.#watches.push(() => {
        if (text(watch.members) === text(members) && watch.count === members.size) return undefined;
        return `${client.id} has ${watch.count} members ${text(watch.members)} of ${name}, not ${text(members)}`;
      });
    }
    const watch = await client.watch(ids);
    this.#watches.push(() => {
      const [known, real] = [[...watch.online].sort(), [...this.#online].sort()];
      if (`${known}` === `${real}`) return undefined;
      return `${client.id} has online ${known}, not ${real}`;
    });
  }

  /** Resolves when all watches are right. If that takes more than `limit` milliseconds since `begun`, it is a fault. */
  async compare(begun, limit) {
    this.comparisons += this.#watches.length;
    for (;;) {
      const differences = this.#watches.map((differs) => differs()).filter(Boolean);
      const late = Date.now() - begun;
      if (differences.length === 0) {
        this.longest = Math.max(this.longest, late);
        return;
      }
      if (late > limit) {
        this.faults.push(...differences.map((one) => `${late} ms after the last fault ${one}`));
        return;
      }
      await sleep(POLL_MS);
    }
  }

  /** Counts the watches that are not right, without a wait. */
  compareNow(what) {
    this.comparisons += this.#watches.length;
    for (const differs of this.#watches) {
      const difference = differs();
      if (difference) this.faults.push(`${what}: ${difference}`);
    }
  }
}

module.exports = Rooms;
