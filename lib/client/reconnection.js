'use strict';

// When, and to which address, a client connects next: the option `reconnect`, the addresses of the broker, and the timer
// of the next attempt.

const timers = require('./timers');
const { resolveToken } = require('./token');

/** The defaults of the option `reconnect`, in milliseconds. The number of attempts is not limited. */
const RECONNECT = {
  minDelay: 500,
  maxDelay: 30_000,
  factor: 2,
  jitter: 1,
};

class Reconnection {
  #settings;
  #options;
  /** The addresses of the broker, or functions that return one; they are tried in turn. */
  #addresses;
  #onDial;
  /** The number of the next address. */
  #next = 0;
  /** Number of attempts to connect since the last registration. */
  #dials = 0;
  #timer;
  /** True while `#timer` waits for the next attempt to connect. */
  #isWaiting = false;
  /** Number of connections lost or failed since the last registration. */
  attempts = 0;
  /** True if a lost connection is followed by another. */
  isEnabled;

  /** `settings`: all options of the client; `onDial()` begins an attempt to connect. */
  constructor(settings, addresses, onDial) {
    this.#settings = settings;
    this.#addresses = addresses;
    this.#onDial = onDial;
    this.isEnabled = Boolean(settings.reconnect);
    this.#options = { ...RECONNECT, ...settings.reconnect };
  }

  /** Calls `connect([token, address])` for the next attempt, or `fail(error)`, once both are known. */
  dial(connect, fail) {
    const { token, connectTimeout } = this.#settings;
    const address = this.#addresses[this.#next % this.#addresses.length];
    this.#next += 1;
    this.#dials += 1;
    this.#isWaiting = false;
    if (typeof token !== 'function' && typeof address !== 'function') {
      connect([token, address]);
      return;
    }
    // A timer, so that an error thrown by a listener is an uncaught exception, and not a rejection.
    resolveToken(connectTimeout, token, address)
      .then(connect)
      .catch((error) => timers.setTimeout(fail, 0, error));
  }

  /** True if there are addresses that were not tried since the last registration. */
  get hasNext() {
    return this.#dials % this.#addresses.length > 0;
  }

  /** The next attempt is to the address of the last one. */
  repeatAddress() {
    this.#next -= 1;
  }

  /** The client is registered. Returns true if connections were lost or had failed before. */
  succeed() {
    const wasLost = this.attempts > 0;
    this.attempts = this.#dials = 0;
    return wasLost;
  }

  /** Counts a lost or failed connection. Returns false if no attempt may follow. */
  countFailure() {
    this.attempts += 1;
    return !(this.attempts > this.#options.maxAttempts);
  }

  /** Schedules the next attempt, at once or after a delay. Returns the delay. */
  schedule(isNow) {
    const { minDelay, maxDelay, factor, jitter } = this.#options;
    // The delay grows when all addresses have been tried.
    const rounds = this.attempts - this.#dials + Math.floor(this.#dials / this.#addresses.length);
    const longest = Math.min(maxDelay, minDelay * factor ** (rounds - 1));
    const delay = isNow ? 0 : Math.round(longest * (1 - jitter * Math.random()));
    this.#isWaiting = true;
    this.#timer = timers.setTimeout(this.#onDial, delay);
    return delay;
  }

  /** Ends the wait for the next attempt to connect. */
  dialNow() {
    if (this.#isWaiting) {
      this.stop();
      this.#onDial();
    }
  }

  stop() {
    timers.clearTimeout(this.#timer);
  }
}

module.exports = Reconnection;
