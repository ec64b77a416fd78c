'use strict';

// class Server: arguments in, events out. Routing is the addon's, on threads of its own.

const { EventEmitter } = require('node:events');
const util = require('node:util');
const { DEFAULTS, parse } = require('./arguments');
const { ASYNC_DISPOSE, startWithin } = require('./client');
const Cluster = require('./cluster');
const { coded, systemError, nativeError } = require('./errors');
const hub = require('./hub');
const { NativeServer } = require('./native');
const { checkServer, checkClose, checkServerTls, checkArgument } = require('./options');
const Ready = require('./ready');
const verdict = require('./verdict');

const kBroker = Symbol('broker');

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
/** Beyond these: a question of the addon, which `authenticate` answers; how the cluster is; what was
 *  found on all brokers. They are always told, as the end of the server is. */
const [QUESTION, CLUSTER, FOUND] = [9, 10, 11];
const ALWAYS = [KINDS.indexOf('close'), QUESTION, CLUSTER, FOUND].reduce(
  (bits, kind) => bits | (1 << kind),
  0,
);

/**
 * A broker.
 *
 *     new WSMsgBroker.Server(port[, path][, options])
 *     new WSMsgBroker.Server({ port, host, path, ... })
 */
function Server(port, endpoint, options) {
  EventEmitter.call(this);
  const isObject = (value) => typeof value === 'object' && value !== null;
  let merged = port;
  if (!isObject(port)) {
    merged = isObject(endpoint) ? { ...endpoint, port } : { ...options, port, path: endpoint };
  }
  merged = checkServer(merged);
  const broker = new Broker(this, merged);
  Object.defineProperty(this, kBroker, { value: broker });
  /** The id under which it takes part itself. */
  this.id = broker.id;
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

/** The ids registered now. */
Server.prototype.ids = function ids() {
  return this[kBroker].ids();
};

/** Whether somebody has registered this id. */
Server.prototype.has = function has(id) {
  return this[kBroker].has(checkArgument('id', id));
};

/** All brokers of its cluster; null where it is alone. */
Object.defineProperty(Server.prototype, 'cluster', {
  configurable: true,
  get() {
    return this[kBroker].cluster;
  },
});

/**
 * Closes the connection that owns this id, behind what waits for it: the id is free when this
 * returns. False if nobody had it.
 */
Server.prototype.disconnect = function disconnect(id, code = 1000, reason = '') {
  checkArgument('id', id);
  checkArgument('code', code);
  checkArgument('reason', reason);
  return this[kBroker].disconnect(id, code, reason);
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

/** The server as one of its clients, with an id of its own: there from when it is first asked for. */
Object.defineProperty(Server.prototype, 'client', {
  configurable: true,
  get() {
    return this[kBroker].client;
  },
});

// As the methods of a client.

for (const name of ['send', 'messages']) {
  Server.prototype[name] = function asClient(...args) {
    return this.client[name](...args);
  };
}

for (const name of ['request', 'requestAll', 'deliver']) {
  Server.prototype[name] = async function asClient(...args) {
    return this.client[name](...args);
  };
}

/** `await using server = ...` closes it at the end of its block. */
Server.prototype[ASYNC_DISPOSE] = function dispose() {
  return this.close();
};

/** As an EventEmitter's, but for our own listeners, which follow what is listened to. */
Server.prototype.removeAllListeners = function removeAllListeners(...names) {
  EventEmitter.prototype.removeAllListeners.apply(this, names);
  this[kBroker].watch();
  return this;
};

/** A promise of what `'listening'`, or `'error'` in its place, tells; also when that is past. */
Object.defineProperty(Server.prototype, 'ready', {
  configurable: true,
  get() {
    return this[kBroker].ready.promise;
  },
});

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
  #client;
  #hasWarned = false;
  /** Searches of all brokers that await their end, by number. */
  #searches = new Map();
  #search = 0;
  /** Until the cluster is there for the first time, where it is required. */
  #awaitsCluster = false;
  ready = new Ready();

  constructor(server, options) {
    this.#server = server;
    this.#options = parse(options);
    this.id = this.#options.id;
    this.#authenticate = options.authenticate;
    this.cluster = options.nats === undefined ? null : new Cluster(this);
    this.#ttl = options.ackTimeout ?? DEFAULTS.ackTimeout;
    const { host, port, path: endpoint } = this.#options.shown;
    this.#awaitsCluster = this.#options.native.nats?.required ?? false;
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
      process.nextTick(() => this.#failed(this.#listenError(error.code)));
      return;
    }
    this.watch();
    const server = this.#server;
    process.nextTick(() => {
      if (server.wss === null) {
        // The program has closed it, and knows.
        this.ready.tell(coded('ERR_WSMB_NOT_OPEN', 'not opened'), true);
      } else if (!this.#options.native.nats?.required) {
        this.#listening();
      }
    });
  }

  /** It listens; where the cluster is required, that is there, too. */
  #listening() {
    const server = this.#server;
    if (this.#options.takesPart) {
      // Nobody is to have its id before.
      server.client.connected().catch(() => {});
    }
    this.ready.tell(null);
    server.emit('listening');
  }

  /** It does not listen. Whoever waits for `ready` is told there, if nobody listens for errors. */
  #failed(error) {
    const heard = this.#server.listenerCount('error') > 0;
    const asked = this.ready.tell(error, heard);
    if (heard || !asked) {
      this.#server.emit('error', error);
    }
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

  ids() {
    return this.#native?.ids() ?? [];
  }

  has(id) {
    return this.#native?.has(id) ?? false;
  }

  disconnect(id, code, reason) {
    try {
      return this.#native?.disconnect(id, code, reason) ?? false;
    } catch (error) {
      throw nativeError(error);
    }
  }

  get client() {
    if (!this.#client && this.#server.wss === null) {
      throw coded('ERR_WSMB_NOT_OPEN', 'not opened');
    }
    this.#client ??= startWithin(this.id, (number, options) => this.#join(number, options));
    return this.#client;
  }

  #join(number, options) {
    if (!this.#native) {
      throw coded('ERR_WSMB_NOT_OPEN', 'not opened');
    }
    try {
      return this.#native.join(hub.hub, number, options);
    } catch (error) {
      throw nativeError(error);
    }
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
    if (fault === undefined) {
      return;
    }
    if (this.#server.listenerCount('error') > 0) {
      this.#server.emit('error', fault);
    } else if (!this.#hasWarned) {
      // It is the program's own fault, and nobody would be let in.
      this.#hasWarned = true;
      process.emitWarning(`authenticate has failed: ${fault.stack}`, { code: 'WSMB_AUTHENTICATE' });
    }
  }

  /** The names of all brokers of the cluster, this one among them; null where there is no cluster. */
  brokers() {
    return this.#native?.nodes() ?? null;
  }

  /** Looks for all ids, or this one, at all brokers. */
  find(id, timeout) {
    if (this.#native === null || this.#server.wss === null) {
      return Promise.reject(coded('ERR_WSMB_NOT_OPEN', 'not opened'));
    }
    this.#search += 1;
    const number = this.#search;
    return new Promise((resolve) => {
      // Throws where the server has just closed.
      this.#native.find(number, id, timeout);
      this.#searches.set(number, resolve);
    });
  }

  /** How the cluster is. What follows from that does not wait for listeners, who may throw. */
  #clustered(state, reason) {
    const server = this.#server;
    const { required, timeout = 5000 } = this.#options.native.nats;
    const begins = this.#awaitsCluster && state === 'connected' && server.wss !== null;
    if (begins || state === 'missing') {
      this.#awaitsCluster = false;
    }
    if (state === 'missing') {
      server.close();
    }
    if (state === 'failed' && !required && server.listenerCount('cluster') === 0) {
      process.emitWarning(`NATS: ${reason}; it is tried again`, { code: 'WSMB_CLUSTER' });
    }
    try {
      server.emit('cluster', state, reason);
    } finally {
      if (begins) {
        this.#listening();
      } else if (state === 'missing') {
        const message = `NATS cannot be reached within ${timeout} ms: ${reason}`;
        this.#failed(coded('ERR_WSMB_CLUSTER', message));
      }
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
        if (this.#awaitsCluster) {
          this.ready.tell(coded('ERR_WSMB_NOT_OPEN', 'not opened'), true);
        }
        this.#searches.forEach((asked) => void asked({ ids: [], silent: [] }));
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
      case CLUSTER:
        this.#clustered(...args);
        break;
      case FOUND: {
        const [number, ids, silent] = args;
        const asked = this.#searches.get(number);
        this.#searches.delete(number);
        asked?.({ ids, silent });
        break;
      }
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

module.exports = Server;
