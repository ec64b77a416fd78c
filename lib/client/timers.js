'use strict';

// The timers of the environment, as they are when this module is loaded: a test framework may replace the global
// functions later. Node.js sets those of `node:timers` (lib/node/index.js).

const { setTimeout: start, clearTimeout: stop } = globalThis;

const setTimer = (...args) => start(...args);

const timers = {
  setTimeout: setTimer,
  clearTimeout: (timer) => stop(timer),
  /** A timer that does not keep the process alive. */
  startIdle: setTimer,
  /** Calls a function once the events that have arrived are handled. */
  afterEvents: setTimer,
};

module.exports = timers;
