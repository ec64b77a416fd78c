'use strict';

// Callbacks of `send` in Node.js: each runs in the asynchronous context (`AsyncLocalStorage`) of its `send`.

const Requests = require('../client/requests');
const { currentContext } = require('../eventHub');

/** The pending requests of a client. Entries of callbacks have their `context`. */
class RequestsInContext extends Requests {
  addCallback(...values) {
    const entry = super.addCallback(...values);
    entry.context = currentContext();
    return entry;
  }

  runCallback({ callback, context }, from, message) {
    if (typeof callback === 'function') {
      context.runInAsyncScope(callback, undefined, from, message);
    }
  }

  delete(key) {
    this.get(key)?.context?.emitDestroy();
    return super.delete(key);
  }

  /** Ends all contexts: no callback will be called. */
  destroyContexts() {
    for (const { context } of this.values()) {
      context?.emitDestroy();
    }
  }
}

/** The pending callbacks of a client, as an object like `ack2callback` of version 1. Its changes take effect. */
function callbacksByAck(requests) {
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

module.exports = { RequestsInContext, callbacksByAck };
