'use strict';

/** How long a callback may wait for an answer, ms: as long as a server of version 1 did. */
const TIMEOUT = 60 * 60 * 1000;
/** How often those whose time is up are looked for, ms. */
const SWEEP = 60 * 1000;

/**
 * What a client awaits. A `Map`, for as an object's properties thousands of acks would each go through V8's
 * table of strings.
 *
 * An entry that awaits answers is known by its ack, a string; one that awaits a receipt by its number:
 *
 *     answered(from, message), failed(id, error)   for answers; a callback of version 1 has only the first
 *     receipt({ delivered, failed })               for a receipt
 *     end(error)                                   nothing more will come; a callback is never told
 *     deadline                                     of a callback, ms: nobody else would forget it
 *     frame                                        what may be sent once more if the connection is lost
 *     again()                                      it will be
 *     needs2                                       of no use with a server of version 1
 *     queued                                       it is not sent yet: what waits
 */
class Requests extends Map {
  #references = 0;
  #swept = 0;

  /** Adds what awaits a receipt; returns its number. */
  number(entry) {
    this.#references += 1;
    this.set(this.#references, entry);
    return this.#references;
  }

  /** Adds a callback, which is kept until it is taken, or its time is up. */
  addCallback(key, answered, frame) {
    const now = Date.now();
    if (now > this.#swept + SWEEP) {
      this.#swept = now;
      for (const [old, { deadline }] of this) {
        if (deadline < now) {
          this.delete(old);
        }
      }
    }
    const entry = { answered, frame, deadline: now + TIMEOUT };
    this.set(key, entry);
    return entry;
  }

  /** The entry, which is forgotten. */
  take(key) {
    const entry = this.get(key);
    this.delete(key);
    return entry;
  }

  /** Ends those that the function chooses. */
  end(error, choose = () => true) {
    for (const [key, entry] of this) {
      if (choose(entry)) {
        this.delete(key);
        entry.end?.(error);
      }
    }
  }
}

module.exports = Requests;
