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
 *     receipt(delivered, codes)                    for a receipt
 *     end(error)                                   nothing more will come; a callback is never told
 *     left                                         how many may still answer a callback
 *     deadline                                     of a callback, ms: nobody else would forget it
 *     frame                                        what may be sent once more if the connection is lost
 *     again(ack)                                   it will be, under this ack
 *     needs2                                       of no use with a server of version 1
 *     queued                                       it is not sent yet: what waits
 */
class Requests extends Map {
  #references = 0;
  #swept = 0;

  /** Adds what awaits answers to this ack, or a receipt, which gets a number; returns either. */
  add(entry, key = this.#nextReference()) {
    this.set(key, entry);
    return key;
  }

  #nextReference() {
    this.#references += 1;
    return this.#references;
  }

  /** Adds a callback, which is kept until it is taken, its time is up, or none of `left` can answer. */
  addCallback(key, answered, frame, left) {
    const now = Date.now();
    if (now > this.#swept + SWEEP) {
      this.#swept = now;
      for (const [old, { deadline }] of this) {
        if (deadline < now) {
          this.delete(old);
        }
      }
    }
    const entry = { answered, frame, left, deadline: now + TIMEOUT };
    this.set(key, entry);
    return entry;
  }

  /** One of those who were asked will not answer. */
  failed(key, id, error) {
    const entry = this.get(key);
    if (entry?.failed) {
      entry.failed(id, error);
    } else if (entry) {
      // Nobody is told, as in version 1.
      entry.left -= 1;
      if (entry.left === 0) {
        this.delete(key);
      }
    }
  }

  /** The entry, which is forgotten. */
  take(key) {
    const entry = this.get(key);
    this.delete(key);
    return entry;
  }

  /** Ends those that the function chooses. */
  end(error, choose) {
    for (const [key, entry] of this) {
      if (choose(entry)) {
        this.delete(key);
        entry.end?.(error);
      }
    }
  }
}

module.exports = Requests;
