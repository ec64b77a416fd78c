'use strict';

// What is behind a `Server`: arguments in, to the addon; events out, from it.

const { DEFAULTS, parse } = require('./arguments');
const { startWithin } = require('./client');
const Cluster = require('./cluster');
const { coded, systemError, nativeError } = require('./errors');
const hub = require('./hub');
const { NativeServer } = require('./native');
const Ready = require('./ready');
const verdict = require('./verdict');

/** The events that the addon tells, at the bit of their kind in src/node/events.rs. */
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

  disconnect(id, { code = 1000, reason = '', principal = false }) {
    try {
      return this.#native?.disconnect(id, code, reason, principal) ?? false;
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

module.exports = Broker;
