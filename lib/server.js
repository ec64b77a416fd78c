'use strict';

// class Server: arguments in, events out. Routing is the addon's, on threads of its own.

const { EventEmitter } = require('node:events');
const net = require('node:net');
const path = require('node:path');
const util = require('node:util');
const { coded, systemError, nativeError } = require('./errors');
const hub = require('./hub');
const { NativeServer } = require('./native');
const { checkServer, checkClose, checkServerTls } = require('./options');
const verdict = require('./verdict');

const kBroker = Symbol('broker');
/** What holds for options that are not set. */
const DEFAULTS = NativeServer.defaults(false);

/** The events that the addon tells, at the bit of their kind in src/node/server.rs. */
const KINDS = [
  'connection',
  'registered',
  'unregistered',
  'warn',
  'error',
  'slow',
  'close',
  'dropped',
  'denied',
];
/** A question of the addon, which `authenticate` answers. */
const QUESTION = 9;
/** The end of the server is always told, and its questions are always asked. */
const ALWAYS = (1 << KINDS.indexOf('close')) | (1 << QUESTION);

/**
 * A broker.
 *
 *     new WSMsgBroker.Server(port[, path[, options]])
 *     new WSMsgBroker.Server({ port, host, path, ... })
 */
function Server(port, endpoint, options) {
  EventEmitter.call(this);
  const merged =
    typeof port === 'object' && port !== null
      ? checkServer(port)
      : checkServer({ ...options, port, path: endpoint });
  const broker = new Broker(this, merged);
  Object.defineProperty(this, kBroker, { value: broker });
  /** As in version 1: what it was started with, and null once it is closed. */
  this.wss = broker.facade;
  broker.start();
}

util.inherits(Server, EventEmitter);

/** Where it listens: `{ address, family, port }`, the path of a Unix socket, or null. */
Server.prototype.address = function address() {
  return this[kBroker].address();
};

/** Counters: what it has done so far, and what it holds now; null once closed. */
Server.prototype.stats = function stats() {
  return this[kBroker].stats();
};

/**
 * Changes the certificate, and whom it lets in, for the connections to come. What cannot be used
 * is thrown, and all stays as it was.
 */
Server.prototype.setTls = function setTls(tls) {
  this[kBroker].setTls(checkServerTls(tls));
};

/**
 * Closes: the port is free when this returns; resolves when the last connection has ended. With
 * `drain` the conversations under way have so many milliseconds to come to their end.
 */
Server.prototype.close = function close(options) {
  const { drain } = checkClose(options);
  this.wss = null;
  return this[kBroker].close(drain);
};

/** As an EventEmitter's, but for our own listeners, which follow what is listened to. */
Server.prototype.removeAllListeners = function removeAllListeners(...names) {
  EventEmitter.prototype.removeAllListeners.apply(this, names);
  this[kBroker].watch();
  return this;
};

/** How long a request may be answered, in milliseconds. */
Object.defineProperty(Server.prototype, 'ttl', {
  configurable: true,
  get() {
    return this[kBroker].ttl;
  },
  set(millis) {
    this[kBroker].ttl = millis;
  },
});

/** What a server does not show. */
class Broker {
  #server;
  #options;
  #native = null;
  #number = 0;
  #authenticate;
  #ttl;
  #interest = 0;
  #closed;
  #resolveClosed;

  constructor(server, options) {
    this.#server = server;
    this.#options = parse(options);
    this.#authenticate = options.authenticate;
    this.#ttl = options.ackTimeout ?? DEFAULTS.ackTimeout;
    const { host, port, path: endpoint } = this.#options.shown;
    this.facade = { options: { host, port, path: endpoint }, close: () => server.close() };
    this.#closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  start() {
    this.#number = hub.open(this);
    try {
      this.#native = new NativeServer(hub.hub, this.#number, this.#options.native);
    } catch (error) {
      hub.close(this.#number);
      this.#resolveClosed();
      if (error.code.startsWith('ERR_')) {
        throw nativeError(error);
      }
      process.nextTick(() => this.#server.emit('error', this.#listenError(error.code)));
      return;
    }
    this.watch();
    const server = this.#server;
    process.nextTick(() => {
      if (server.wss !== null) {
        server.emit('listening');
      }
    });
  }

  /** Follows which events are listened to: others never cross. */
  watch() {
    const server = this.#server;
    server.removeListener('newListener', this.#added).on('newListener', this.#added);
    server.removeListener('removeListener', this.#removed).on('removeListener', this.#removed);
    const heard = KINDS.filter((name) => server.listenerCount(name) > 0);
    this.#listen(heard.reduce((interest, name) => interest | bit(name), ALWAYS));
  }

  #added = (name) => this.#listen(this.#interest | bit(name));

  #removed = (name) => {
    if (this.#server.listenerCount(name) === 0) {
      this.#listen(this.#interest & ~bit(name));
    }
  };

  #listenError(code) {
    const { host, port, unix } = this.#options.native;
    const syscall = code === 'ENOTFOUND' ? 'getaddrinfo' : 'listen';
    return unix === undefined
      ? systemError(code, syscall, host, syscall === 'listen' ? port : undefined)
      : systemError(code, syscall, unix);
  }

  #listen(interest) {
    if (interest !== this.#interest) {
      this.#interest = interest;
      this.#native?.listen(interest);
    }
  }

  address() {
    const found = this.#native?.address();
    if (!found) {
      return null;
    }
    const [address, port] = found;
    if (this.#options.native.unix !== undefined) {
      return address;
    }
    return { address, family: address.includes(':') ? 'IPv6' : 'IPv4', port };
  }

  stats() {
    return this.#native?.stats() ?? null;
  }

  get ttl() {
    return this.#ttl;
  }

  set ttl(millis) {
    this.#ttl = millis;
    if (typeof millis === 'number' && millis > 0) {
      // As with setTimeout, less than a millisecond is one.
      this.#native?.setAckTimeout(Math.max(millis, 1));
    }
  }

  setTls(tls) {
    if (!this.#native) {
      throw coded('ERR_WSMB_NOT_OPEN', 'not opened');
    }
    try {
      this.#native.setTls(tls);
    } catch (error) {
      throw nativeError(error);
    }
  }

  close(drain) {
    this.#native?.close(drain);
    return this.#closed;
  }

  /** Whether a client may register: asked of the program, and answered to the addon. */
  async #ask([number, id, token, headers, remoteAddress, secure]) {
    const credentials = { id, token: token ?? undefined, headers, remoteAddress, secure };
    const { answer, fault } = await verdict(this.#authenticate, credentials);
    // Outside this promise: what a listener throws is an exception, as everywhere.
    process.nextTick(() => this.#answer(number, answer, fault));
  }

  #answer(number, answer, fault) {
    this.#native?.answer(number, answer);
    if (fault !== undefined && this.#server.listenerCount('error') > 0) {
      this.#server.emit('error', fault);
    }
  }

  /** One event of the addon. */
  receive([kind, ...args]) {
    const server = this.#server;
    switch (kind) {
      case 3: {
        const message = `Unable to send message. Client "${args[0]}" unknown`;
        server.emit('warn', coded('ERR_WSMB_UNKNOWN_ID', message));
        break;
      }
      case 4:
        // A peer's fault never ends the process: without a listener it is counted, and dropped.
        if (server.listenerCount('error') > 0) {
          server.emit('error', refusal(args));
        }
        break;
      case 6:
        hub.close(this.#number);
        this.#resolveClosed();
        break;
      case 8: {
        const [id, code, reason] = args;
        server.emit('denied', id, coded(code, reason));
        break;
      }
      case QUESTION:
        this.#ask(args);
        break;
      default:
        server.emit(KINDS[kind], ...args);
    }
  }
}

/** What a peer did wrong. Where its text is at hand, the engine names the fault itself. */
function refusal([code, message, text]) {
  if (code === 'ERR_WSMB_JSON' && text !== null) {
    try {
      // `null` parses, and has no action.
      JSON.parse(text).action;
    } catch (error) {
      error.code = code;
      return error;
    }
  }
  const Type = code === 'ERR_WSMB_JSON' || code === 'ERR_WSMB_BINARY' ? SyntaxError : Error;
  return coded(code, message, Type);
}

function bit(name) {
  const kind = KINDS.indexOf(name);
  return kind < 0 ? 0 : 1 << kind;
}

/** The error for a port out of range, in the words of this version of Node. */
function badPort(port) {
  const probe = net.createServer();
  try {
    probe.listen({ port });
  } catch (error) {
    return error;
  }
  probe.close();
  const message = `options.port should be >= 0 and < 65536. Received ${util.inspect(port)}.`;
  return coded('ERR_SOCKET_BAD_PORT', message, RangeError);
}

/** The option `jwt`, as the addon wants it. */
function nativeJwt({ secret, publicKey, issuer, audience, subject, ...others }) {
  if ((secret === undefined) === (publicKey === undefined)) {
    const message = 'option "jwt" needs either "secret" or "publicKey"';
    throw coded('ERR_WSMB_OPTION', message, TypeError);
  }
  return {
    ...others,
    secret: secret === undefined ? undefined : [...Buffer.from(secret)],
    publicKey: publicKey === undefined ? undefined : [...Buffer.from(publicKey)],
    issuer: issuer === undefined ? undefined : [issuer].flat(),
    audience: audience === undefined ? undefined : [audience].flat(),
    pattern: subject === 'pattern',
  };
}

/** The arguments of version 1, as the addon wants them and as `wss.options` shows them. */
function parse({ port, host = DEFAULTS.host, path: endpoint, authenticate, jwt, ...limits }) {
  if (port === undefined || port === null) {
    throw new TypeError('`port` or a `server` must be provided');
  }
  const text = endpoint ? String(endpoint) : '';
  const shown = { host, port, path: text.startsWith('/') ? text : `/${text}` };
  const authenticates = authenticate !== undefined;
  const native = { ...limits, host, port: 0, path: shown.path, authenticates };
  if (jwt !== undefined) {
    if (authenticates) {
      throw coded(
        'ERR_WSMB_OPTION',
        'options "jwt" and "authenticate" exclude each other',
        TypeError,
      );
    }
    native.jwt = nativeJwt(jwt);
  }
  const number = typeof port === 'string' && port.trim() !== '' ? Number(port) : port;
  if (typeof port === 'string' && !(number >= 0)) {
    native.unix = path.resolve(port);
  } else if (Number.isInteger(number) && number >= 0 && number < 65_536) {
    native.port = number;
  } else {
    throw badPort(port);
  }
  return { shown, native };
}

module.exports = Server;
