'use strict';

/** The callbacks of a client as the object that version 1 had: what is deleted there is forgotten here. */
function view(requests) {
  const callback = (key) => (requests.get(key)?.deadline ? requests.get(key).answered : undefined);
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
