'use strict';

// Protects a socket from the other listeners of its upgrade request: some answer 400 to paths that are not theirs,
// others take every socket, or end those that have no answer after a second.

/** Members of a socket that do nothing, or are false, in the rest of the tick, and until a pending decision. */
const IN_TICK = ['write', 'end', 'destroy', 'destroySoon', 'readable', 'writable'];
const PENDING = ['write', 'end', 'destroySoon', 'writable'];

/** Replaces members of a socket. Returns a function that restores them. */
function shield(socket, names) {
  const own = names.map((name) => [name, Object.getOwnPropertyDescriptor(socket, name)]);
  for (const name of names) {
    const isState = name === 'readable' || name === 'writable';
    const value = isState ? false : () => name !== 'write' && socket;
    Object.defineProperty(socket, name, { value, configurable: true, writable: true });
  }
  return () => {
    for (const [name, descriptor] of own) {
      delete socket[name];
      if (descriptor) Object.defineProperty(socket, name, descriptor);
    }
  };
}

module.exports = { shield, IN_TICK, PENDING };
