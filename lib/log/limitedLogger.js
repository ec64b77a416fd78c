'use strict';

// Calls a logger of the program (pino, console, ...): only for enabled levels, at a limited rate, and so that its errors
// do not reach the server.

const util = require('node:util');

// Captured here, because fake timers of a test framework replace them later.
const { setTimeout, clearTimeout } = require('node:timers');

/** Lines of one event and level in a second. Peers cause events, and must not be able to flood the log. */
const MAX_LINES = 20;
/** The time to which the limit applies, in milliseconds. */
const PERIOD = 1000;

/** The order of the levels of pino and other loggers. */
const RANKS = { trace: 0, debug: 1, info: 2, warn: 3, error: 4, fatal: 5, silent: 6, off: 6 };

/** Whether a logger prints this level, as far as is known. A logger with other levels decides itself. */
function isEnabled(logger, level) {
  if (typeof logger[level] !== 'function') {
    return false;
  }
  if (typeof logger.isLevelEnabled === 'function') {
    return Boolean(logger.isLevelEnabled(level));
  }
  const { level: lowest } = logger;
  return !Object.hasOwn(RANKS, lowest) || RANKS[level] >= RANKS[lowest];
}

class LimitedLogger {
  #logger;
  /** By event and level, the lines of the current period, including the suppressed ones. */
  #counts = new Map();
  /** The timer of the current period. */
  #timer;
  #hasFailed = false;

  constructor(logger) {
    this.#logger = logger;
  }

  isEnabled(level) {
    try {
      return isEnabled(this.#logger, level);
    } catch (error) {
      this.#reportFailure(error);
      return false;
    }
  }

  write(level, event, members, message) {
    if (!this.isEnabled(level)) {
      return;
    }
    const key = `${level} ${event}`;
    const count = (this.#counts.get(key) ?? 0) + 1;
    this.#counts.set(key, count);
    this.#timer ??= setTimeout(() => this.endPeriod(), PERIOD).unref();
    if (count <= MAX_LINES) {
      const given = Object.entries(members).filter(([, value]) => value !== undefined);
      this.#call(level, { event, ...Object.fromEntries(given) }, message);
    }
  }

  /** Ends the period of the limit, and writes how many lines were suppressed in it. */
  endPeriod() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const counts = this.#counts;
    this.#counts = new Map();
    for (const [key, count] of counts) {
      const [level, suppressed] = key.split(' ');
      if (count > MAX_LINES && this.isEnabled(level)) {
        const members = { event: 'suppressed', suppressed, count: count - MAX_LINES };
        this.#call(level, members, 'lines of an event were suppressed');
      }
    }
  }

  #call(level, members, message) {
    try {
      const result = this.#logger[level](members, message);
      // An asynchronous method.
      result?.then?.(undefined, (error) => this.#reportFailure(error));
    } catch (error) {
      this.#reportFailure(error);
    }
  }

  /** Reports the first error of the logger as a warning of the process. */
  #reportFailure(error) {
    if (!this.#hasFailed) {
      this.#hasFailed = true;
      const text = error?.stack ?? util.inspect(error);
      process.emitWarning(`option "logger" has failed: ${text}`, { code: 'WSMB_LOGGER' });
    }
  }
}

module.exports = LimitedLogger;
