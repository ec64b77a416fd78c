'use strict';

// The callbacks of `send`: each runs in the asynchronous context (`AsyncLocalStorage`) of its `send`.

const { currentContext } = require('../eventHub');

/** The callback of the program, and its context, as properties of the function that calls it. */
const kCallback = Symbol('callback');
const kContext = Symbol('context');

/** A function that calls a callback in the current context, once. */
function bindCallback(callback) {
  const context = currentContext();
  const bound = (from, message) => {
    releaseCallback(bound);
    context.runInAsyncScope(callback, undefined, from, message);
  };
  bound[kCallback] = callback;
  bound[kContext] = context;
  return bound;
}

/** Ends the context of a callback, which is not called any more. */
function releaseCallback(bound) {
  bound?.[kContext]?.emitDestroy();
}

/** The pending callbacks of a client, as an object like `ack2callback` of version 1. Its changes take effect. */
function callbacksByAck(requests) {
  const callback = (key) => {
    const found = requests.get(key)?.callback;
    return found?.[kCallback] ?? found;
  };
  const describe = (key) =>
    callback(key) && { value: callback(key), writable: true, enumerable: true, configurable: true };
  return new Proxy(Object.create(null), {
    get: (_, key) => callback(key),
    has: (_, key) => callback(key) !== undefined,
    ownKeys: () => [...requests.keys()].filter(callback),
    getOwnPropertyDescriptor: (_, key) => describe(key),
    deleteProperty: (_, key) => {
      releaseCallback(requests.get(key)?.callback);
      requests.delete(key);
      return true;
    },
    set: (_, key, value) => {
      requests.addCallback(key, value);
      return true;
    },
  });
}

module.exports = { bindCallback, releaseCallback, callbacksByAck };
