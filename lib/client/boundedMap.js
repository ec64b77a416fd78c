'use strict';

/** Size of an entry in addition to its key and the text of its value, approximately, in characters. */
const ENTRY = 256;

/** A `Map` with string keys and a maximum size in characters: when it is exceeded, the oldest entries are removed. */
class BoundedMap {
  #maximum;
  #used = 0;
  /** By key, the value and the size of the entry. */
  #entries = new Map();

  constructor(maximum) {
    this.#maximum = maximum;
  }

  get size() {
    return this.#entries.size;
  }

  keys() {
    return this.#entries.keys();
  }

  get(key) {
    return this.#entries.get(key)?.[0];
  }

  /** `length`: characters that the value keeps. */
  set(key, value, length) {
    this.delete(key);
    const size = key.length + length + ENTRY;
    this.#entries.set(key, [value, size]);
    this.#used += size;
    while (this.#used > this.#maximum) {
      const [oldest] = this.keys();
      this.delete(oldest);
    }
  }

  delete(key) {
    const entry = this.#entries.get(key);
    if (entry) {
      this.#entries.delete(key);
      this.#used -= entry[1];
    }
  }
}

module.exports = BoundedMap;
