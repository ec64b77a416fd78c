'use strict';

// The events of a server: emits what the addon sends, writes it to the log, and informs the addon which kinds of events
// have a receiver.

const { coded } = require('../errors');
const ServerLog = require('../log');
const { ServerEventKind } = require('../native');

// Captured here, because fake timers of a test framework replace them later.
const { setInterval, clearInterval } = require('node:timers');

/** The interval at which the levels of a logger are read again, in milliseconds. */
const READ_LEVELS = 1000;

/** Kinds of events that the addon sends only while the event of this name has a listener. */
const OPTIONAL_EVENTS = {
  __proto__: null,
  connection: ServerEventKind.Connection,
  registered: ServerEventKind.Registered,
  unregistered: ServerEventKind.Unregistered,
  resumed: ServerEventKind.Resumed,
  warn: ServerEventKind.UnknownId,
  error: ServerEventKind.Refused,
  slow: ServerEventKind.Slow,
  denied: ServerEventKind.Denied,
  disconnected: ServerEventKind.Disconnected,
  refused: ServerEventKind.HandshakeRefused,
};

/** Those kinds by their names in the log, and one that only the log has. */
const { warn, error, ...sameNames } = OPTIONAL_EVENTS;
const LOGGED_EVENTS = {
  __proto__: null,
  ...sameNames,
  unknown_id: warn,
  invalid_action: error,
  taken_over: ServerEventKind.TakenOver,
};

/** The bit of an event in the mask of events that have receivers. */
function bit(events, name) {
  return name in events ? 1 << events[name] : 0;
}

/** The bits of those events for which `isWanted(name)`. */
function mask(events, isWanted) {
  const names = Object.keys(events).filter(isWanted);
  return names.reduce((bits, name) => bits | bit(events, name), 0);
}

/** The origin of a connection, for listeners. */
function connectionInfo(remoteAddress, port, secure) {
  return { remoteAddress, remotePort: port ?? undefined, secure };
}

class ServerEvents {
  /** The server of the program, which emits the events. */
  server;
  log;
  /** True if the texts of denials are those of the program, which may contain secrets. */
  #hasOwnDenials;
  /** The mask of events that have listeners, that of events for the log, and that which the addon has. */
  #listened = 0;
  #logged = 0;
  #mask = 0;
  /** The timer that reads the levels of the logger again; undefined without the option `logger`. */
  #reader;
  #hasLogger;

  constructor(server, { logger, authenticate }) {
    this.server = server;
    this.#hasOwnDenials = authenticate !== undefined;
    this.#hasLogger = logger !== undefined;
    this.log = new ServerLog(server, logger);
  }

  /** Starts to inform the addon which events have receivers. It does not send other events. */
  startEvents() {
    this.followListeners();
    this.#readLevels();
    if (this.#hasLogger) {
      this.#reader = setInterval(() => this.#readLevels(), READ_LEVELS).unref();
    }
  }

  /** Ends the log. No event follows. */
  endEvents() {
    clearInterval(this.#reader);
    this.log.end();
  }

  followListeners() {
    const { server } = this;
    server.removeListener('newListener', this.#added).on('newListener', this.#added);
    server.removeListener('removeListener', this.#removed).on('removeListener', this.#removed);
    this.#setListened(mask(OPTIONAL_EVENTS, (name) => server.listenerCount(name) > 0));
  }

  #added = (name) => this.#setListened(this.#listened | bit(OPTIONAL_EVENTS, name));

  #removed = (name) => {
    if (this.server.listenerCount(name) === 0) {
      this.#setListened(this.#listened & ~bit(OPTIONAL_EVENTS, name));
    }
  };

  #setListened(listened) {
    this.#listened = listened;
    this.#setMask();
  }

  #readLevels() {
    this.#logged = mask(LOGGED_EVENTS, (name) => this.log.wants(name));
    this.#setMask();
  }

  #setMask() {
    const next = this.#listened | this.#logged;
    if (next !== this.#mask) {
      this.#mask = next;
      this.listen(next);
    }
  }

  // The handlers of events: `on` and the name of a `ServerEventKind`, where src/node/events.rs lists the arguments.
  // Those of `ServerImpl` change its state. The log comes first: a listener may throw.

  onConnection([, address, port, secure]) {
    const info = connectionInfo(address, port, secure);
    this.log.report('connection', info);
    this.server.emit('connection', info);
  }

  onDisconnected([, address, port, secure, id, reason, code, seconds, messages, received, sent]) {
    const connection = {
      ...connectionInfo(address, port, secure),
      id: id ?? undefined,
      reason,
      code: code ?? undefined,
      duration: seconds * 1000,
      messages,
      bytesReceived: received,
      bytesSent: sent,
    };
    this.log.report('disconnected', { ...connection, duration: Math.round(connection.duration) });
    this.server.emit('disconnected', connection);
  }

  onHandshakeRefused([, address, port, secure, status]) {
    const refusal = { ...connectionInfo(address, port, secure), status };
    this.log.report('refused', refusal);
    this.server.emit('refused', refusal);
  }

  onRegistered([, id, address, port, secure]) {
    const info = connectionInfo(address, port, secure);
    this.log.report('registered', { id, ...info });
    this.server.emit('registered', id, info);
  }

  onResumed([, id, address, port, secure]) {
    const info = connectionInfo(address, port, secure);
    this.log.report('resumed', { id, ...info });
    this.server.emit('resumed', id, info);
  }

  onTakenOver([, id, address, port, secure]) {
    this.log.report('taken_over', { id, ...connectionInfo(address, port, secure) });
  }

  onUnregistered([, id]) {
    this.log.report('unregistered', { id });
    this.server.emit('unregistered', id);
  }

  onUnknownId([, id]) {
    this.log.report('unknown_id', { id });
    const message = `Unable to send message. Client "${id}" unknown`;
    this.server.emit('warn', coded('ERR_WSMB_UNKNOWN_ID', message));
  }

  onRefused([, code, text, frame, id, address, port, secure]) {
    // Without the text, which may contain a part of the frame.
    const info = connectionInfo(address, port, secure);
    this.log.report('invalid_action', { code, id: id ?? undefined, ...info });
    // Without a listener the error is dropped: a peer must not be able to end the process.
    if (this.server.listenerCount('error') > 0) {
      this.server.emit('error', refusalError(code, text, frame));
    }
  }

  onSlow([, id, reason]) {
    this.log.report('slow', { id: id ?? undefined, reason });
    this.server.emit('slow', id, reason);
  }

  onDenied([, id, code, text, address, port, secure]) {
    const reason = this.#hasOwnDenials ? undefined : text;
    const info = connectionInfo(address, port, secure);
    this.log.report('denied', { id: id ?? undefined, code, reason, ...info });
    this.server.emit('denied', id, coded(code, text));
  }

  onCounted([, count]) {
    this.log.report('dropped', { count });
    this.server.emit('dropped', count);
  }
}

/** The error of an invalid frame. If its text is short enough, the error of a JSON text is V8's own. */
function refusalError(code, message, text) {
  if (code === 'ERR_WSMB_JSON' && text !== null) {
    try {
      // `null` is valid JSON, and has no action.
      JSON.parse(text).action;
    } catch (error) {
      error.code = code;
      return error;
    }
  }
  const Type = code === 'ERR_WSMB_JSON' || code === 'ERR_WSMB_BINARY' ? SyntaxError : Error;
  return coded(code, message, Type);
}

module.exports = ServerEvents;
