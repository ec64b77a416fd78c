'use strict';

/** What an entry takes beside its key, about, in characters. */
const ENTRY = 256;

/** A `Map` of strings to anything, whose entries take a limited number of characters: beyond it the oldest go. */
class Bounded extends Map {
  #most;
  #held = 0;

  constructor(most) {
    super();
    this.#most = most;
  }

  set(key, value) {
    this.delete(key);
    super.set(key, value);
    this.#held += key.length + ENTRY;
    while (this.#held > this.#most) {
      const [oldest] = this.keys();
      this.delete(oldest);
    }
    return this;
  }

  delete(key) {
    const isThere = super.delete(key);
    if (isThere) {
      this.#held -= key.length + ENTRY;
    }
    return isThere;
  }
}

module.exports = Bounded;
