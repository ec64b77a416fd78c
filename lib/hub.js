'use strict';

// One hub per JavaScript environment: it takes the batches of events that the addon hands over,
// and gives each to the object it belongs to.

const v8 = require('node:v8');
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

// Where the delivery stands: a listener that throws interrupts it, and it goes on from here.
let items = [];
let nextItem = 0;
let events = [];
let nextEvent = 0;
/** Characters of each of them, on average. */
let eventSize = 0;
let object;
/** What is left waits for a turn of its own. */
let isResting = false;

const hub = new Hub(dispatch, v8.getHeapStatistics().heap_size_limit);

/** Opens an object: it gets a number, and the process stays alive for it. */
function open(opened) {
  lastNumber += 1;
  objects.set(lastNumber, opened);
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
function dispatch(batches) {
  // Empty while an interrupted delivery has not ended: the addon keeps the rest, and pushes back.
  if (batches.length > 0) {
    items = batches;
    nextItem = 0;
    deliver();
  }
}

/** Delivers what is left. What a listener throws is the program's to see, now, and at once. */
function deliver() {
  let ended = false;
  try {
    while (nextEvent < events.length || nextItem < items.length) {
      if (nextEvent < events.length) {
        const event = events[nextEvent];
        nextEvent += 1;
        object?.receive(event);
        if (isResting) {
          return;
        }
      } else {
        openItem();
      }
    }
    ended = true;
  } finally {
    if (!ended) {
      hub.pause();
      setImmediate(resume);
    }
  }
}

/** Whoever waits for what has just been told goes on before more is told. */
function rest() {
  isResting = true;
}

function resume() {
  isResting = false;
  hub.resume();
  deliver();
}

/** Opens the next item. */
function openItem() {
  const item = items[nextItem];
  nextItem += 1;
  if (typeof item === 'number') {
    object = objects.get(item);
  } else {
    events = [];
    nextEvent = 0;
    // The text is not kept while its events are delivered.
    items[nextItem - 1] = undefined;
    try {
      events = JSON.parse(item);
    } catch (error) {
      object?.unreadable?.(error);
    }
    eventSize = Math.ceil(item.length / Math.max(events.length, 1));
  }
}

/** Characters of the event that is being delivered, about. */
function size() {
  return eventSize;
}

/** Calls `client.flush()` when this tick ends. */
function collect(client) {
  if (collected.size === 0) {
    process.nextTick(flush);
  }
  collected.add(client);
}

function flush() {
  try {
    for (const client of collected) {
      collected.delete(client);
      client.flush();
    }
  } finally {
    // One that throws must not keep the others waiting.
    if (collected.size > 0) {
      process.nextTick(flush);
    }
  }
}

// What was sent in the tick that ends the process still reaches the socket.
process.on('exit', () => {
  flush();
  for (const opened of objects.values()) {
    opened.linger?.();
  }
});

module.exports = { hub, open, close, collect, rest, size };
