'use strict';

// The timers of the environment, as they are when this module is loaded: a test framework may replace the global
// functions later. Node.js sets those of `node:timers` (lib/node/index.js).

const { setTimeout: start, clearTimeout: stop } = globalThis;

const timers = {
  setTimeout: (...args) => start(...args),
  clearTimeout: (timer) => stop(timer),
  /** Calls a function once the events that have arrived are handled. */
  afterEvents: (callback) => start(callback),
};

module.exports = timers;
