'use strict';

// The log of a server: passes its events to the option `logger`, to NODE_DEBUG=wsmsgbroker, and to diagnostics channels.
// Events have no messages of clients, no tokens, no queries and no headers.

const { channel } = require('node:diagnostics_channel');
const { debuglog } = require('node:util');
const { EVENTS, levelOf, levelsOf } = require('./events');
const LimitedLogger = require('./limitedLogger');
const createLineLogger = require('./lineLogger');

/** The diagnostics channels by event. Node.js keeps a channel only as long as it is referenced. */
const CHANNELS = { __proto__: null };
for (const [event, { channel: name }] of Object.entries(EVENTS)) {
  if (name !== undefined) {
    CHANNELS[event] = channel(`wsmsgbroker:${name}`);
  }
}

/** The logger of NODE_DEBUG; undefined if that does not name this package. */
const debugLogger = createDebugLogger(debuglog('wsmsgbroker'));

function createDebugLogger(print) {
  if (print.enabled) {
    // Otherwise a closed pipe would end the process.
    process.stderr.on('error', () => {});
    return createLineLogger('bare', 'debug', (line) => print('%s', line));
  }
}

class ServerLog {
  #server;
  #loggers;

  /** `logger`: the option, or undefined. */
  constructor(server, logger) {
    this.#server = server;
    const loggers = [logger, debugLogger].filter((each) => each !== undefined);
    this.#loggers = loggers.map((each) => new LimitedLogger(each));
  }

  /** Whether an event has a receiver: a subscriber of its channel, or a logger that prints one of its levels. */
  wants(event) {
    const isWanted = (logger) => levelsOf(EVENTS[event]).some((level) => logger.isEnabled(level));
    return CHANNELS[event]?.hasSubscribers || this.#loggers.some(isWanted);
  }

  /** Writes an event to the loggers, and publishes it. */
  report(event, members = {}) {
    if (CHANNELS[event]?.hasSubscribers) {
      CHANNELS[event].publish({ server: this.#server, ...members });
    }
    for (const logger of this.#loggers) {
      logger.write(levelOf(EVENTS[event], members), event, members, EVENTS[event].message);
    }
  }

  /** Writes the numbers of suppressed lines. */
  end() {
    for (const logger of this.#loggers) {
      logger.endPeriod();
    }
  }
}

module.exports = ServerLog;
