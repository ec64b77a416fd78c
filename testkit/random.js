'use strict';

// Random numbers that a seed repeats. What happens when still depends on the machine; what is done,
// and in which order within an act, does not.

const crypto = require('node:crypto');

class Random {
  #state;

  /** Each name has a sequence of its own, so that one act does not disturb another's. */
  constructor(seed, name) {
    const digest = crypto.createHash('sha256').update(`${seed}\n${name}`).digest();
    // Zero is the one state that xorshift never leaves.
    this.#state = digest.readInt32LE() || 1;
  }

  /** At least 0, below 1. */
  next() {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) / 2 ** 32;
  }

  /** An integer, both ends included. */
  int(least, most) {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  pick(list) {
    return list[this.int(0, list.length - 1)];
  }

  chance(probability) {
    return this.next() < probability;
  }

  /** Time until the next event of a stream of independent ones. */
  interval(mean) {
    return -mean * Math.log(1 - this.next());
  }

  bytes(length) {
    return Buffer.from(Array.from({ length }, () => this.int(0, 255)));
  }
}

module.exports = Random;
