'use strict';

// The methods of Node's EventEmitter that clients offer, for browsers.

class Emitter {
  #listeners = new Map();

  #list(name) {
    return this.#listeners.get(name) ?? [];
  }

  on(name, listener) {
    this.#listeners.set(name, [...this.#list(name), listener]);
    return this;
  }

  once(name, listener) {
    const once = (...args) => {
      this.off(name, once);
      listener.apply(this, args);
    };
    once.listener = listener;
    return this.on(name, once);
  }

  /** Removes a listener, even if it was added several times: the same as `removeEventListener`. */
  off(name, listener) {
    const isOther = (each) => each !== listener && each.listener !== listener;
    this.#listeners.set(name, this.#list(name).filter(isOther));
    return this;
  }

  /** Calls the listeners. Returns false if there are none; throws an `'error'` that has none. */
  emit(name, ...args) {
    const list = this.#list(name);
    if (name === 'error' && list.length === 0) {
      throw args[0];
    }
    for (const listener of list) {
      listener.apply(this, args);
    }
    return list.length > 0;
  }

  listenerCount(name) {
    return this.#list(name).length;
  }

  removeAllListeners(name) {
    if (name === undefined) {
      this.#listeners.clear();
    } else {
      this.#listeners.delete(name);
    }
    return this;
  }
}

Emitter.prototype.addListener = Emitter.prototype.on;
Emitter.prototype.removeListener = Emitter.prototype.off;

module.exports = Emitter;
