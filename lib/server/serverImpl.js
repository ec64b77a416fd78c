'use strict';

// The implementation behind class Server: passes options and calls to the addon, and emits its events.

const { X509Certificate } = require('node:crypto');
const util = require('node:util');
const Attachment = require('../attach');
const { coded, systemError, nativeError } = require('../errors');
const eventHub = require('../eventHub');
const { NativeServer, ServerEventKind } = require('../native');
const { createInProcess } = require('../node');
const { DEFAULTS, nativeJwt, parse } = require('./arguments');
const { authResult, topicResult } = require('./authResult');
const Cluster = require('./cluster');
const Ready = require('./ready');
const ServerEvents = require('./serverEvents');

// Captured here, because fake timers of a test framework replace it later.
const { nextTick } = process;
const { setTimeout, clearTimeout } = require('node:timers');

/** The certificate of a client, in base64, as `authenticate` gets it. */
function clientCertificate(base64) {
  if (base64 === null) {
    return undefined;
  }
  const certificate = new X509Certificate(Buffer.from(base64, 'base64'));
  const { subject, subjectAltName, issuer, serialNumber, validFrom, validTo } = certificate;
  const { fingerprint256, raw } = certificate;
  const { CN } = certificate.toLegacyObject().subject ?? {};
  return {
    // A name may occur several times: none of them is the name.
    commonName: typeof CN === 'string' ? CN : undefined,
    subject,
    subjectAltName,
    issuer,
    serialNumber,
    validFrom,
    validTo,
    fingerprint256,
    raw,
  };
}

/** An address as Node.js has it. `found`: that of the addon, with port 0 for a Unix socket. */
function addressOf(found) {
  if (!found) {
    return null;
  }
  const [address, port] = found;
  if (port === 0) {
    return address;
  }
  return { address, family: address.includes(':') ? 'IPv6' : 'IPv4', port };
}

/** The members of the log for an address. */
const membersOf = (address) =>
  typeof address === 'string' ? { address } : { ...address, family: undefined };

/** The address of a listener in a message of the addon: host and port, or only the host if it has no address. */
const target = ({ host, port, unix, fd }) =>
  fd === undefined ? (unix ?? `${host}:${port}`) : 'inherited socket';

/** The name and code of a fault of the program, for the log. Its message may contain secrets, such as a token. */
function namesOf(fault) {
  const names = {};
  for (const member of ['name', 'code']) {
    try {
      const name = fault[member];
      if (typeof name === 'string' && /^\w{1,64}$/.test(name)) {
        names[member] = name;
      }
    } catch {
      // The program may throw anything, also an object whose members cannot be read.
    }
  }
  return names;
}

/** The codes of warnings about faults of functions of the program. */
const WARNINGS = {
  store: 'WSMB_STORE',
  authenticate: 'WSMB_AUTHENTICATE',
  authorize: 'WSMB_AUTHORIZE',
};

const notOpened = () => coded('ERR_WSMB_NOT_OPEN', 'not opened');

/** Calls a function of the addon. Its error for an invalid option becomes a RangeError. */
function callNative(call) {
  try {
    return call();
  } catch (error) {
    throw nativeError(error);
  }
}

class ServerImpl extends ServerEvents {
  /** The property of a server that has its implementation. */
  static key = Symbol('impl');
  #options;
  #native = null;
  #number = 0;
  #authenticate;
  #authorize;
  #ttl;
  #closed;
  #resolveClosed;
  /** Takes over sockets of HTTP servers, if the server has no port. */
  #attachment;
  #client;
  /** True if the server keeps the process alive. */
  #isRef = true;
  #isClosed = false;
  /** The timer of a delayed `close`. */
  #delay;
  /** The kinds of failures that were reported by a warning. */
  #warned = new Set();
  /** By number, functions that resolve pending searches of the cluster. */
  #searches = new Map();
  #lastSearch = 0;
  /** True until the cluster is reached for the first time, if it is required. */
  #awaitsCluster = false;
  /** True once its address is bound, or that of its HTTP server. */
  #isBound = false;
  ready = new Ready();
  context = eventHub.currentContext();

  constructor(server, options) {
    super(server, options);
    this.#options = parse(options);
    this.id = this.#options.id;
    this.#authenticate = options.authenticate;
    this.#authorize = options.authorize;
    this.cluster = options.nats === undefined ? null : new Cluster(this);
    this.#ttl = options.ackTimeout ?? DEFAULTS.ackTimeout;
    const { host, port, path: endpoint } = this.#options.shown;
    this.#awaitsCluster = this.#options.native.nats?.required ?? false;
    this.facade = {
      options: { host, port, path: endpoint },
      close: (callback) => server.close(callback),
    };
    this.#closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  start() {
    this.#number = eventHub.add(this);
    eventHub.setRef(this.#number, true);
    try {
      this.#native = new NativeServer(eventHub.hub, this.#number, this.#options.native);
    } catch (error) {
      eventHub.remove(this.#number);
      this.#setClosed();
      if (error.code.startsWith('ERR_')) {
        throw nativeError(error);
      }
      nextTick(() => this.#failToListen(this.#listenError(error)));
      return;
    }
    this.startEvents();
    this.#attach();
    nextTick(() => {
      this.#isBound = this.#options.httpServer?.listening ?? true;
      if (this.server.wss === null) {
        // The program has closed the server in the tick of its construction: no unhandled rejection.
        this.ready.settle(notOpened(), true);
      } else {
        this.#emitListening();
      }
    });
  }

  /** Prepares to take over sockets, if the server has no port. Throws if another broker has the path. */
  #attach() {
    const { httpServer, attachment } = this.#options;
    if (attachment === undefined) {
      return;
    }
    const report = (what, error) => this.#reportFault(what, error);
    this.#attachment = new Attachment(this.#native, { ...attachment, report });
    if (httpServer === undefined) {
      return;
    }
    try {
      this.#attachment.listen(httpServer);
    } catch (error) {
      this.#native.close();
      throw error;
    }
    httpServer.once('listening', this.#onHttpListening);
  }

  #onHttpListening = () => {
    if (!this.#isBound) {
      this.#isBound = true;
      this.#emitListening();
    }
  };

  /** Takes over the socket of an upgrade request. */
  handleUpgrade(req, socket, head, options) {
    if (this.#attachment === undefined) {
      const message = 'the server has a port of its own: use option "noServer"';
      throw coded('ERR_WSMB_OPTION', message, TypeError);
    }
    return this.#attachment.handle(req, socket, head, options);
  }

  /** Emits `'listening'`, unless something is still missing. */
  #emitListening() {
    const { server } = this;
    if (!this.#isBound || this.#awaitsCluster || server.wss === null) {
      return;
    }
    if (this.#options.hasOwnId) {
      // Register the server's own id before a client can.
      server.client.connected().catch(() => {});
    }
    this.ready.settle(null);
    this.#logListening();
    server.emit('listening');
  }

  #logListening() {
    const where = membersOf(this.address());
    const secure = this.#options.native.tls !== undefined;
    this.log.report('listening', { ...where, path: this.#options.shown.path, secure });
    const admin = this.adminAddress();
    if (admin !== null) {
      this.log.report('admin_listening', membersOf(admin));
    }
  }

  /** Reports that the server cannot listen: by a rejected `ready`, and by `'error'` if `ready` was not read. */
  #failToListen(error) {
    // The text is that of the system or of this package.
    this.log.report('failure', { operation: 'listen', code: error.code, reason: error.message });
    const hasListener = this.server.listenerCount('error') > 0;
    const wasRead = this.ready.settle(error, hasListener);
    if (hasListener || !wasRead) {
      this.server.emit('error', error);
    }
  }

  /** Sets the mask of events that the addon sends. */
  listen(mask) {
    this.#native?.listen(mask);
  }

  #listenError({ code, message }) {
    const { admin, ...own } = this.#options.native;
    // The message ends with the address.
    const isAdmin = admin && ![own.host, target(own)].some((each) => message.endsWith(`: ${each}`));
    const { host, port, unix, fd, reusePort } = isAdmin ? admin : own;
    const syscall = code === 'ENOTFOUND' ? 'getaddrinfo' : 'listen';
    if (unix !== undefined || fd !== undefined) {
      return systemError(code, syscall, target({ unix, fd }));
    }
    const isWorker = require('node:cluster').isWorker;
    const advice =
      code === 'EADDRINUSE' && !reusePort && isWorker && !isAdmin
        ? ': workers of node:cluster can share a port with the option reusePort'
        : '';
    return systemError(code, syscall, host, syscall === 'listen' ? port : undefined, advice);
  }

  address() {
    const { httpServer } = this.#options;
    // As for a port of its own, null from `close()` on.
    if (httpServer && this.server.wss !== null) {
      return httpServer.address();
    }
    return addressOf(this.#native?.address());
  }

  adminAddress() {
    return addressOf(this.#native?.adminAddress());
  }

  metrics() {
    return this.#native?.metrics() ?? null;
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

  addSubscriber(topic, id) {
    this.#change((native) => native.addSubscriber(topic, id));
  }

  removeSubscriber(topic, id) {
    return this.#change((native) => native.removeSubscriber(topic, id));
  }

  subscribers(topic) {
    return this.#native?.subscribers(topic) ?? [];
  }

  mailbox(name) {
    const [messages, bytes] = this.#native?.mailbox(name) ?? [];
    return messages === undefined ? null : { messages, bytes };
  }

  disconnect(id, { code = 1000, reason = '', principal = false }) {
    return callNative(() => this.#native?.disconnect(id, code, reason, principal) ?? false);
  }

  /** The server's own client, created when it is first read. */
  get client() {
    if (!this.#client && this.server.wss === null) {
      throw notOpened();
    }
    if (!this.#client) {
      this.#client = createInProcess(this.id, (number, options) => this.#join(number, options));
      this.#applyRef();
    }
    return this.#client;
  }

  #join(number, options) {
    if (!this.#native) {
      throw notOpened();
    }
    return callNative(() => this.#native.join(eventHub.hub, number, options));
  }

  get ttl() {
    return this.#ttl;
  }

  set ttl(millis) {
    this.#ttl = millis;
    if (typeof millis === 'number' && millis > 0) {
      // At least one millisecond, the same as in setTimeout.
      this.#native?.setAckTimeout(Math.max(millis, 1));
    }
  }

  setTls(tls) {
    this.#change((native) => native.setTls(tls));
  }

  setJwt(jwt) {
    this.#change((native) => native.setJwt(nativeJwt(jwt)));
  }

  setAdminToken(token) {
    this.#change((native) => native.setAdminToken(token));
  }

  /** Changes an option, or a subscription, of the running server. */
  #change(call) {
    if (!this.#native) {
      throw notOpened();
    }
    return callNative(() => call(this.#native));
  }

  /** Closes the server. `callback` is called when it is closed, with an error if it was closed before. */
  close({ drain, delay }, callback) {
    if (callback !== undefined) {
      const error = this.#isClosed ? notOpened() : undefined;
      // Outside of the promise, so that an error thrown by the callback is an uncaught exception.
      this.#closed.then(() => nextTick(() => (error ? callback(error) : callback())));
    }
    clearTimeout(this.#delay);
    if (this.server.wss !== null && !this.#isClosed) {
      this.log.report('closing', { delay: delay ?? 0, drain: drain ?? 0 });
    }
    if (delay > 0 && this.server.wss !== null) {
      this.#native?.leave();
      this.#delay = setTimeout(() => this.#stop(drain), delay);
      this.setRef(this.#isRef);
    } else {
      this.#stop(drain);
    }
    return this.#closed;
  }

  /** Stops to listen, and closes the connections. */
  #stop(drain) {
    this.server.wss = null;
    this.#attachment?.close();
    this.#options.httpServer?.removeListener('listening', this.#onHttpListening);
    this.#native?.close(drain);
  }

  #setClosed() {
    this.#isClosed = true;
    this.endEvents();
    this.context.emitDestroy();
    this.#resolveClosed();
  }

  /** Sends keep-alive notifications to systemd from the threads of the broker, in this interval in milliseconds. */
  keepAlive(address, every) {
    this.#native?.keepAlive(address, every);
  }

  /** Sets whether the server and its own client keep the process alive. */
  setRef(isRef) {
    this.#isRef = isRef;
    eventHub.setRef(this.#number, isRef);
    if (isRef) this.#delay?.ref();
    else this.#delay?.unref();
    this.#applyRef();
  }

  /** Sets whether the server's own client keeps the process alive. */
  #applyRef() {
    if (this.#isRef) {
      this.#client?.ref();
    } else {
      this.#client?.unref();
    }
  }

  /** The names of all known brokers of the cluster, or null without a cluster. */
  brokers() {
    return this.#native?.nodes() ?? null;
  }

  /** Searches all brokers of the cluster for all ids, or for this one. */
  find(id, timeout) {
    if (this.#native === null || this.server.wss === null) {
      return Promise.reject(notOpened());
    }
    this.#lastSearch += 1;
    const number = this.#lastSearch;
    return new Promise((resolve) => {
      // Throws if the server has just closed: the promise then rejects.
      this.#native.find(number, id, timeout);
      this.#searches.set(number, resolve);
    });
  }

  /** Handles an event of the addon. */
  receive(event) {
    HANDLERS[event[0]].call(this, event);
  }

  // The handlers of events that change the state of the server; `ServerEvents` has the others.

  onClosed() {
    eventHub.remove(this.#number);
    if (this.#awaitsCluster || !this.#isBound) {
      this.ready.settle(notOpened(), true);
    }
    for (const bridge of this.#attachment?.bridges.values() ?? []) {
      bridge.destroy();
    }
    for (const resolve of this.#searches.values()) {
      resolve({ ids: [], silent: [] });
    }
    this.log.report('closed');
    this.#setClosed();
  }

  /** Calls `authenticate`, and passes its result to the addon. */
  async onQuestion(event) {
    const [, number, id, token, headers, url, certificate, remoteAddress, secure, context] = event;
    const credentials = {
      id,
      token: token ?? undefined,
      headers,
      url,
      remoteAddress,
      secure,
      certificate: clientCertificate(certificate),
      context: context ?? undefined,
    };
    const { result, fault } = await authResult(this.#authenticate, credentials);
    // Outside of this promise, so that an error thrown by a listener is an uncaught exception.
    nextTick(() => this.#answer(number, result, 'authenticate', fault));
  }

  /** Calls `authorize`, and passes its result to the addon. */
  async onTopicQuestion([, number, id, principal, topic, token]) {
    const request = { id, principal, action: 'subscribe', topic, token: token ?? undefined };
    const { result, fault } = await topicResult(this.#authorize, request);
    nextTick(() => this.#answer(number, result, 'authorize', fault));
  }

  #answer(number, result, what, fault) {
    this.#native?.answer(number, result);
    if (fault !== undefined) {
      this.#reportFault(what, fault);
    }
  }

  /** Reports a failure that is not caused by a peer: as `'error'`, or as a warning, once for each kind. */
  #reportFault(what, fault) {
    this.log.report('failure', { operation: what, ...namesOf(fault) });
    if (this.server.listenerCount('error') > 0) {
      this.server.emit('error', fault);
    } else if (!this.#warned.has(what)) {
      this.#warned.add(what);
      const text = fault?.stack ?? util.inspect(fault);
      const code = WARNINGS[what] ?? 'WSMB_ATTACH';
      process.emitWarning(`${what} has failed: ${text}`, { code });
    }
  }

  /** Handles a change of the cluster connection, even if a listener of `'cluster'` throws. */
  onCluster([, state, reason]) {
    const { server } = this;
    const { required, timeout = DEFAULTS.nats.timeout } = this.#options.native.nats;
    const isReached = this.#awaitsCluster && state === 'connected' && server.wss !== null;
    const isMissing = state === 'missing';
    if (isReached || isMissing) {
      this.#awaitsCluster = false;
    }
    if (isMissing) {
      server.close();
    }
    if (state === 'failed' && !required && server.listenerCount('cluster') === 0) {
      process.emitWarning(`cluster: ${reason}`, { code: 'WSMB_CLUSTER' });
    }
    this.log.report('cluster', { state, reason: reason ?? undefined });
    try {
      server.emit('cluster', state, reason);
    } finally {
      if (isReached) {
        this.#emitListening();
      } else if (isMissing) {
        const message = `NATS cannot be reached within ${timeout} ms: ${reason}`;
        this.#failToListen(coded('ERR_WSMB_CLUSTER', message));
      }
    }
  }

  onStoreFailed([, text]) {
    this.#reportFault('store', coded('ERR_WSMB_STORE', text));
  }

  onBridgeOutput([, number]) {
    this.#attachment.bridges.get(number)?.send();
  }

  onBridgeResume([, number]) {
    this.#attachment.bridges.get(number)?.resume();
  }

  onBridgeClosed([, number]) {
    this.#attachment.bridges.get(number)?.close();
  }

  onFound([, number, ids, silent]) {
    this.#searches.get(number)?.({ ids, silent });
    this.#searches.delete(number);
  }
}

/** By the number of a kind, the method that handles its events. */
const HANDLERS = eventHub.handlersOf(ServerEventKind, ServerImpl.prototype);

module.exports = ServerImpl;
