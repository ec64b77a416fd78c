'use strict';

// One hub per JavaScript environment: it takes the batches of events that the addon hands over,
// and gives each to the object it belongs to.

const { Hub } = require('./native');

// Taken now: a test framework may replace the global later.
const { setInterval, clearInterval, setImmediate } = require('node:timers');

/** Longer than any timer may be set; it keeps the process alive, nothing more. */
const FOREVER = 2 ** 31 - 1;

/** Objects that are open, by number. They live here even if the program forgets them. */
const objects = new Map();
/** Clients that have collected something to send in this tick. */
const collected = new Set();

let lastNumber = 0;
let keepAlive = null;

/** Batches whose turn has not come yet, because a listener threw. */
let backlog = [];

const hub = new Hub(dispatch);

/** Opens an object: it gets a number, and the process stays alive for it. */
function open(object) {
  lastNumber += 1;
  objects.set(lastNumber, object);
  keepAlive ??= setInterval(() => {}, FOREVER);
  return lastNumber;
}

/** The object has told its last. */
function close(number) {
  hub.remove(number);
  if (objects.delete(number) && objects.size === 0) {
    clearInterval(keepAlive);
    keepAlive = null;
  }
}

/** Called by the addon: the number of an object, its segments, the next number, ... */
function dispatch(items) {
  if (backlog.length > 0) {
    backlog = backlog.concat(items);
    return;
  }
  let object;
  let at = 0;
  try {
    for (; at < items.length; at += 1) {
      if (typeof items[at] === 'number') {
        object = objects.get(items[at]);
      } else {
        deliver(object, items, at);
      }
    }
  } finally {
    if (at < items.length) {
      defer(items, at);
    }
  }
}

/** Delivers the events of one segment. What is left of it when a listener throws stays there. */
function deliver(object, items, at) {
  const events = typeof items[at] === 'string' ? JSON.parse(items[at]) : items[at];
  let next = 0;
  try {
    while (next < events.length) {
      const event = events[next];
      next += 1;
      object?.receive(event);
    }
  } finally {
    if (next < events.length) {
      items[at] = events.slice(next);
    } else {
      items[at] = [];
    }
  }
}

/** A listener threw. That is the program's to see, now; the rest follows if it survives. */
function defer(items, at) {
  let owner = at;
  while (owner > 0 && typeof items[owner] !== 'number') {
    owner -= 1;
  }
  backlog = [items[owner], ...items.slice(at)];
  setImmediate(() => {
    const rest = backlog;
    backlog = [];
    dispatch(rest);
  });
}

/** Calls `client.flush()` when this tick ends. */
function collect(client) {
  if (collected.size === 0) {
    process.nextTick(flush);
  }
  collected.add(client);
}

function flush() {
  for (const client of collected) {
    collected.delete(client);
    client.flush();
  }
}

// What was sent in the tick that ends the process still reaches the socket.
process.on('exit', () => {
  const last = [...collected];
  flush();
  for (const client of last) {
    client.linger();
  }
});

module.exports = { hub, open, close, collect };
