'use strict';

const { aborted } = require('./errors');
const signals = require('./signals');
const timers = require('./timers');

/** The longest timer that JavaScript supports, in milliseconds. A longer wait never ends by itself. */
const MAX_TIMER = 2 ** 31 - 1;

/**
 * Waits for a time in milliseconds, or for a signal (optional). Then calls `onTimeout()` or `onAbort(error)`, unless the
 * returned function was called before.
 */
function startWait(limit, signal, onTimeout, onAbort) {
  const stop = () => {
    timers.clearTimeout(timer);
    signals.remove(signal, abort);
  };
  const abort = () => {
    stop();
    onAbort(aborted(signal));
  };
  const expire = () => {
    stop();
    onTimeout();
  };
  const timer = limit <= MAX_TIMER ? timers.setTimeout(expire, limit) : undefined;
  signals.add(signal, abort);
  return stop;
}

module.exports = { MAX_TIMER, startWait };
