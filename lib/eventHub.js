'use strict';

// The event hub of a JavaScript environment: receives batches of events from the addon, and passes each event to
// the object (server or client) that it belongs to.

const { AsyncResource } = require('node:async_hooks');
const v8 = require('node:v8');
const { Hub } = require('./native');

// Imported here, because fake timers of a test framework replace these functions later.
const { setInterval, clearInterval, setImmediate } = require('node:timers');
const { nextTick } = process;

/** The longest interval of a timer, in milliseconds. The timer only keeps the process alive. */
const MAX_INTERVAL = 2 ** 31 - 1;

/** The property of `process` for the functions to call when it exits: a set that all copies of this module share. */
const EXIT_HANDLERS = Symbol.for('wsmsgbroker.exitHandlers');

/**
 * Open objects by number. This reference keeps them alive. The `context` of an object is the asynchronous context in
 * which its events are delivered.
 */
const objects = new Map();
/** The keys of what keeps the process alive: numbers of servers, and sessions of clients. */
const referenced = new Set();
/** Clients with frames to pass to the addon at the end of this tick. */
const clientsToFlush = new Set();

let lastNumber = 0;
let keepAlive = null;

// The position in the current delivery: it continues here after a listener has thrown.
let items = [];
let nextItem = 0;
let events = [];
let nextEvent = 0;
/** The average size of these events, in characters. */
let averageSize = 0;
let object;
/** True if the rest of the delivery must wait for a turn of the event loop. */
let isYielding = false;

const hub = new Hub(v8.getHeapStatistics().heap_size_limit);

/** Adds an object, and returns its number. */
function add(added) {
  if (objects.size === 0) {
    hub.open(receiveBatches);
    exitHandlers().add(onExit);
  }
  lastNumber += 1;
  objects.set(lastNumber, added);
  return lastNumber;
}

/** Removes an object, which receives no further events. */
function remove(number) {
  hub.remove(number);
  setRef(number, false);
  if (objects.delete(number) && objects.size === 0) {
    hub.close();
    exitHandlers().delete(onExit);
  }
}

/** Sets whether something keeps the process alive. `key`: the number of an open object, or any other object. */
function setRef(key, isRef) {
  if (isRef && (objects.has(key) || typeof key === 'object')) {
    referenced.add(key);
    keepAlive ??= setInterval(() => {}, MAX_INTERVAL);
  } else if (referenced.delete(key) && referenced.size === 0) {
    clearInterval(keepAlive);
    keepAlive = null;
  }
}

/** The asynchronous context of the caller, which listeners of an object see (`AsyncLocalStorage`). */
function currentContext() {
  return new AsyncResource('WSMsgBroker');
}

/** Called by the addon with the number of an object, the JSON texts of its events, the next number, and so on. */
function receiveBatches(batches) {
  // The array is empty while the hub is paused.
  if (batches.length > 0) {
    items = batches;
    nextItem = 0;
    deliver();
  }
}

/** Delivers events. An error thrown by a listener is an uncaught exception; the delivery continues after it. */
function deliver() {
  let isFinished = false;
  try {
    while (!isYielding && (nextEvent < events.length || nextItem < items.length)) {
      if (nextEvent < events.length) {
        object.context.runInAsyncScope(deliverEvents);
      } else {
        openItem();
      }
    }
    isFinished = !isYielding;
  } finally {
    if (!isFinished) {
      hub.pause();
      setImmediate(resume);
    }
  }
}

/** Delivers the events of one object. */
function deliverEvents() {
  while (!isYielding && nextEvent < events.length) {
    const event = events[nextEvent];
    nextEvent += 1;
    object.receive(event);
  }
}

/** Interrupts the delivery after the current event, so that callbacks of promises run before the next event. */
function yieldToPromises() {
  isYielding = true;
}

function resume() {
  isYielding = false;
  hub.resume();
  deliver();
}

/** Reads the next item: the number of an object, or the events of one. */
function openItem() {
  const item = items[nextItem];
  nextItem += 1;
  if (typeof item === 'number') {
    object = objects.get(item);
  } else {
    events = [];
    nextEvent = 0;
    // Release the text before its events are delivered.
    items[nextItem - 1] = undefined;
    if (object === undefined) {
      return;
    }
    try {
      events = JSON.parse(item);
    } catch (error) {
      object.receiveInvalid?.(error);
    }
    averageSize = Math.ceil(item.length / Math.max(events.length, 1));
  }
}

/** The approximate size of the event that is being delivered, in characters. */
function eventSize() {
  return averageSize;
}

/**
 * The method `on<Name>` of each kind of event, by the number of the kind. `kinds`: an enum of the addon, numbers by
 * name. Throws if a kind has no method, so that the two lists cannot differ.
 */
function handlersOf(kinds, prototype) {
  if (kinds === undefined) {
    throw new Error('the addon is older than lib/: build it again');
  }
  const handlers = [];
  for (const [name, kind] of Object.entries(kinds)) {
    handlers[kind] = prototype[`on${name}`];
    if (handlers[kind] === undefined) {
      throw new Error(
        `the addon does not match lib/, which has no handler for events of kind ${name}`,
      );
    }
  }
  return handlers;
}

/** Calls `client.flush()` at the end of this tick. */
function flushAtTickEnd(client) {
  if (clientsToFlush.size === 0) {
    nextTick(flush);
  }
  clientsToFlush.add(client);
}

function flush() {
  try {
    for (const client of clientsToFlush) {
      clientsToFlush.delete(client);
      client.flush();
    }
  } finally {
    // After an error of one client, the others are flushed in the next tick.
    if (clientsToFlush.size > 0) {
      nextTick(flush);
    }
  }
}

/** The functions to call when the process exits. Several copies of this module add one `'exit'` listener. */
function exitHandlers() {
  if (process[EXIT_HANDLERS] === undefined) {
    const handlers = new Set();
    Object.defineProperty(process, EXIT_HANDLERS, { value: handlers });
    process.on('exit', () => {
      for (const handle of handlers) {
        handle();
      }
    });
  }
  return process[EXIT_HANDLERS];
}

/** Frames that were sent in the last tick of the process still reach the socket. */
function onExit() {
  flush();
  for (const opened of objects.values()) {
    opened.linger?.();
  }
}

module.exports = {
  hub,
  currentContext,
  add,
  remove,
  setRef,
  flushAtTickEnd,
  yieldToPromises,
  eventSize,
  handlersOf,
};
