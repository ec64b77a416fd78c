'use strict';

/** Size of an entry in addition to its key and the text of its value, approximately, in characters. */
const ENTRY = 256;

/** A `Map` with string keys and a maximum size in characters: when it is exceeded, the oldest entries are removed. */
class BoundedMap extends Map {
  #left;

  constructor(maximum) {
    super();
    this.#left = maximum;
  }

  get(key) {
    return super.get(key)?.[0];
  }

  /** `length`: characters that the value keeps. */
  set(key, value, length) {
    this.delete(key);
    const size = key.length + length + ENTRY;
    super.set(key, [value, size]);
    this.#left -= size;
    while (this.#left < 0) {
      const [oldest] = this.keys();
      this.delete(oldest);
    }
  }

  delete(key) {
    this.#left += super.get(key)?.[1] ?? 0;
    super.delete(key);
  }
}

module.exports = BoundedMap;
