'use strict';

// The callbacks of a client that await an answer. A `Map`, for as an object's properties thousands of acks
// would each go through V8's table of strings.

/** How long the program may wait for an answer, ms: as long as a server of version 1 did. */
const TIMEOUT = 60 * 60 * 1000;

class Pending {
  /** By ack, the oldest first: `{ callback, deadline }`. */
  #requests = new Map();

  /** Keeps a callback until it is taken, or its time is up. */
  add(key, callback) {
    const now = Date.now();
    for (const [old, { deadline }] of this.#requests) {
      if (deadline > now) {
        break;
      }
      this.#requests.delete(old);
    }
    this.#requests.set(key, { callback, deadline: now + TIMEOUT });
  }

  /** The callback, which is forgotten. */
  take(key) {
    const request = this.#requests.get(key);
    this.#requests.delete(key);
    return request?.callback;
  }

  /** As the object that version 1 had: what is deleted there is forgotten here. */
  view() {
    const requests = this.#requests;
    const describe = (key) =>
      requests.has(key)
        ? {
            value: requests.get(key).callback,
            writable: true,
            enumerable: true,
            configurable: true,
          }
        : undefined;
    return new Proxy(Object.create(null), {
      get: (_, key) => requests.get(key)?.callback,
      has: (_, key) => requests.has(key),
      ownKeys: () => [...requests.keys()],
      getOwnPropertyDescriptor: (_, key) => describe(key),
      deleteProperty: (_, key) => {
        requests.delete(key);
        return true;
      },
      set: (_, key, callback) => {
        this.add(key, callback);
        return true;
      },
    });
  }
}

module.exports = Pending;
