'use strict';

// Listeners of AbortSignals. Without a signal, nothing is done. Node.js has functions of its own
// (lib/node/signals.js).

const signals = {
  add: (signal, listener) => signal?.addEventListener('abort', listener),
  remove: (signal, listener) => signal?.removeEventListener('abort', listener),
};

module.exports = signals;
