'use strict';

/** The pending callbacks of a client, as an object like `ack2callback` of version 1. Its changes take effect. */
function view(requests) {
  const callback = (key) => requests.get(key)?.callback;
  const describe = (key) =>
    callback(key) && { value: callback(key), writable: true, enumerable: true, configurable: true };
  return new Proxy(Object.create(null), {
    get: (_, key) => callback(key),
    has: (_, key) => callback(key) !== undefined,
    ownKeys: () => [...requests.keys()].filter(callback),
    getOwnPropertyDescriptor: (_, key) => describe(key),
    deleteProperty: (_, key) => {
      requests.delete(key);
      return true;
    },
    set: (_, key, value) => {
      requests.addCallback(key, value);
      return true;
    },
  });
}

module.exports = view;
