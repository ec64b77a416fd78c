'use strict';

// Listeners of AbortSignals. All listeners of a signal share one of its own: Node.js warns of a leak when a signal has
// more than ten.

/** By signal, its listeners. */
const listeners = new WeakMap();

function callAll({ target }) {
  const all = [...listeners.get(target)];
  listeners.delete(target);
  for (const listener of all) {
    listener();
  }
}

/** Calls `listener` when the signal is aborted. */
function add(signal, listener) {
  const all = listeners.get(signal);
  if (all) {
    all.add(listener);
  } else if (signal) {
    listeners.set(signal, new Set([listener]));
    signal.addEventListener('abort', callAll, { once: true });
  }
}

function remove(signal, listener) {
  const all = listeners.get(signal);
  all?.delete(listener);
  if (all?.size === 0) {
    listeners.delete(signal);
    signal.removeEventListener('abort', callAll);
  }
}

module.exports = { add, remove };
