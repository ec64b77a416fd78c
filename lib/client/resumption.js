'use strict';

// The part of a session that outlives its connection (rule 40 of spec/protocol.md): counts the actions of both sides,
// and keeps those that the broker has not confirmed, to send them again on another connection.

const timers = require('./timers');

/** Number and characters of the actions received after which their number is confirmed, and the time until then. */
const CONFIRM_EVERY = 128;
const CONFIRM_CHARACTERS = 32 * 1024;
const CONFIRM_AFTER = 1000;

/** Characters of the unconfirmed actions that are kept. Beyond it the oldest are dropped, and cannot be sent again. */
const MAX_KEPT = 16 * 1024 * 1024;

/** The beginning of a frame that is not counted. `received` is not passed to `keepSent`. */
const UNCOUNTED = '{"action":"register"';

class Resumption {
  token;
  /** Milliseconds for which the broker keeps the session without a connection. */
  timeout;
  /** Number of actions received. */
  received = 0;
  #confirm;
  #confirmed = 0;
  #characters = 0;
  #timer;
  /** Actions sent that the broker has not confirmed, and the number of those before. */
  #sent = [];
  #before = 0;
  #kept = 0;

  /** `confirm(count)` sends the broker the number of actions received. */
  constructor({ token, timeout }, confirm) {
    this.token = token;
    this.timeout = timeout;
    this.#confirm = confirm;
  }

  countReceived(size) {
    this.received += 1;
    this.#characters += size;
    const unconfirmed = this.received - this.#confirmed;
    if (unconfirmed >= CONFIRM_EVERY || this.#characters >= CONFIRM_CHARACTERS) {
      this.confirmReceived();
    } else {
      this.#timer ??= timers.setTimeout(() => this.confirmReceived(), CONFIRM_AFTER);
    }
  }

  confirmReceived() {
    this.stop();
    if (this.received > this.#confirmed) {
      this.#confirmed = this.received;
      this.#characters = 0;
      this.#confirm(this.received);
    }
  }

  /** Stops the timer. */
  stop() {
    timers.clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  keepSent(frame) {
    if (frame.startsWith(UNCOUNTED)) {
      return;
    }
    this.#sent.push(frame);
    this.#kept += frame.length;
    if (this.#kept > MAX_KEPT) {
      // A quarter at once: removing them one by one would move all others each time.
      let kept = this.#kept;
      const count = this.#sent.findIndex((each) => {
        kept -= each.length;
        return kept <= (MAX_KEPT * 3) / 4;
      });
      this.#drop(count + 1);
    }
  }

  #drop(count) {
    for (const frame of this.#sent.splice(0, count)) {
      this.#kept -= frame.length;
    }
    this.#before += count;
  }

  /** The broker has received so many actions. */
  confirmSent(count) {
    if (Number.isInteger(count) && count > this.#before) {
      this.#drop(Math.min(count - this.#before, this.#sent.length));
    }
  }

  /** The actions behind the `count`th, to be sent again. Undefined if some of them are missing. */
  since(count) {
    const isKnown =
      Number.isInteger(count) && count >= this.#before && count <= this.#before + this.#sent.length;
    if (isKnown) {
      this.confirmSent(count);
      return this.#sent;
    }
  }
}

module.exports = Resumption;
