'use strict';

/** Size of an entry in addition to its key, approximately, in characters. */
const ENTRY = 256;

/** A `Map` with string keys and a maximum size in characters: when it is exceeded, the oldest entries are removed. */
class BoundedMap extends Map {
  #maximum;
  #used = 0;

  constructor(maximum) {
    super();
    this.#maximum = maximum;
  }

  set(key, value) {
    this.delete(key);
    super.set(key, value);
    this.#used += key.length + ENTRY;
    while (this.#used > this.#maximum) {
      const [oldest] = this.keys();
      this.delete(oldest);
    }
    return this;
  }

  delete(key) {
    const isRemoved = super.delete(key);
    if (isRemoved) {
      this.#used -= key.length + ENTRY;
    }
    return isRemoved;
  }
}

module.exports = BoundedMap;
