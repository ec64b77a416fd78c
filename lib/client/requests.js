'use strict';

/** Time for which a callback waits for an answer, in milliseconds: the same as in a broker of version 1. */
const CALLBACK_TIMEOUT = 60 * 60 * 1000;
/** Interval at which expired callbacks are removed, in milliseconds. */
const SWEEP_INTERVAL = 60 * 1000;

/**
 * The pending requests of a client, by key: the name of an ack, or the number of a request for a receipt. A `Map`,
 * because acks as properties of an object would each enter V8's table of strings.
 *
 * An entry is a `PendingRequest`, or the callback of a `send`:
 *
 *     callback       called with the first answer: (from, message)
 *     receivers      how many receivers may still answer
 *     deadline       when the callback expires, in milliseconds: it has no timer
 *     frameText      the frame, if it may be sent again after a lost connection
 *     queuedItem     the item of the send queue, until the frame is sent
 */
class Requests extends Map {
  #lastReference = 0;
  #swept = 0;

  /** A new number for a request for a receipt. */
  nextReference() {
    this.#lastReference += 1;
    return this.#lastReference;
  }

  /** Adds a callback. It stays until it is called or has expired, or until no receiver can answer. */
  addCallback(key, callback, frameText, receivers) {
    const now = performance.now();
    if (now > this.#swept + SWEEP_INTERVAL) {
      this.#swept = now;
      for (const [old, { deadline }] of this) {
        if (deadline < now) {
          this.delete(old);
        }
      }
    }
    const entry = { callback, frameText, receivers, deadline: now + CALLBACK_TIMEOUT };
    this.set(key, entry);
    return entry;
  }

  /** Calls the callback of an entry. */
  runCallback({ callback }, from, message) {
    callback(from, message);
  }

  /** Handles that one receiver of a request will not answer. A callback is not called, as in version 1. */
  failReceiver(key, id, error) {
    const entry = this.get(key);
    if (entry?.onFailure) {
      entry.onFailure(id, error);
    } else if (entry) {
      entry.receivers -= 1;
      if (entry.receivers === 0) {
        this.delete(key);
      }
    }
  }

  /** Removes the entries that `matches` selects, and fails those that are requests. For `rejects` see `fail`. */
  failMatching(error, matches, rejects) {
    for (const [key, entry] of this) {
      if (matches(entry)) {
        this.delete(key);
        entry.fail?.(error, rejects);
      }
    }
  }
}

module.exports = Requests;
