'use strict';

// A broker that shares the port of an HTTP server: decides about upgrade requests, and takes over their sockets.

const { coded } = require('../errors');
const listen = require('./dispatcher');
const { handOver, obstacle } = require('./handOver');
const request = require('./request');
const { PENDING, shield } = require('./shield');

// Captured here, because fake timers of a test framework replace them later.
const { nextTick } = process;
const { hasBody, headOf, ignoreErrors, isAnswering, isCut, isWebSocket, pathOf } = request;
const { setTimeout, clearTimeout, setImmediate, clearImmediate } = require('node:timers');

/** Maximum length of a context as JSON text, in bytes. */
const MAX_CONTEXT = 4096;
/** The longest interval of a timer, in milliseconds. */
const MAX_INTERVAL = 2 ** 31 - 1;

/** Sockets that were taken over. */
const taken = new WeakSet();

/** The JSON text of a context, or undefined. Throws if it has none, or too long a one. */
function contextText(context) {
  if (context === undefined || context === null || context === true) {
    return undefined;
  }
  const text = JSON.stringify(context);
  if (text === undefined || Buffer.byteLength(text) > MAX_CONTEXT) {
    const found = text === undefined ? `of type ${typeof context}` : 'longer';
    const message = `context is ${found}, expected JSON of at most ${MAX_CONTEXT} bytes`;
    throw coded('ERR_WSMB_OPTION', message, RangeError);
  }
  return text;
}

/** True if the socket cannot be used any more. After a reset the system does not know its peer. */
const isGone = (socket) =>
  socket.destroyed ||
  !socket.readable ||
  !socket.writable ||
  (socket._handle?.constructor?.name === 'TCP' && socket.remoteAddress === undefined);

/** The client of a request, for the addon. `given`: its address, if the program has found it out. */
function clientOf(socket, given) {
  return {
    remoteAddress: given ?? socket.remoteAddress,
    remotePort: given === undefined ? socket.remotePort : undefined,
    secure: Boolean(socket.encrypted),
  };
}

class Attachment {
  #native;
  #options;
  #stop;
  #hasWarned = false;
  #isClosed = false;
  /** The bridges of this server, by number. */
  bridges = new Map();

  /**
   * `native`: the server of the addon. `options`: the `path`, encoded, or undefined for any; `allowUpgrade`;
   * `handshakeTimeout`; `report(what, error)` reports that something has failed.
   */
  constructor(native, options) {
    this.#native = native;
    this.#options = options;
  }

  /** Takes the upgrade requests of an HTTP server. */
  listen(httpServer) {
    this.#stop = listen(httpServer, this.#options.path, {
      handle: (req, socket, head) => this.#decide(req, socket, head),
      reportRefused: (socket, status) => this.#reportRefused(clientOf(socket), status),
    });
  }

  /**
   * Reports a refused request, as the addon does at a port of its own. `status`: that of the response; undefined if the
   * socket is closed without one.
   */
  #reportRefused({ remoteAddress, remotePort, secure }, status) {
    this.#native.reportRefused(remoteAddress, remotePort, secure, status);
  }

  /** Refuses a request with this status. Not in this tick, in which the socket may be shielded. */
  #refuse(socket, status, client) {
    this.#reportRefused(client, status);
    setImmediate(request.refuse, socket, status);
    return 'refused';
  }

  /** Takes no further requests. Those that come nevertheless are refused. */
  close() {
    this.#isClosed = true;
    this.#stop?.();
  }

  /** Asks the program about a request of the HTTP server, and handles it. */
  async #decide(req, socket, head) {
    const { allowUpgrade, handshakeTimeout, report } = this.#options;
    if (allowUpgrade === undefined) {
      this.handle(req, socket, head, {});
      return;
    }
    // A socket that is destroyed meanwhile has no address.
    const client = clientOf(socket);
    let timer;
    let release = () => {};
    // Until it is decided, no other listener handles it. In this tick another shield does that.
    const shielding = setImmediate(() => {
      release = shield(socket, PENDING);
    });
    try {
      const expiry = new Promise((_, reject) => {
        const message = `allowUpgrade took longer than ${handshakeTimeout} ms`;
        const expire = () => reject(coded('ERR_WSMB_OPTION', message));
        timer = setTimeout(expire, Math.min(handshakeTimeout, MAX_INTERVAL)).unref();
      });
      const context = await Promise.race([allowUpgrade(req), expiry]);
      // The shield of this tick is over then.
      await new Promise((resolve) => setImmediate(resolve));
      release();
      if (context === false) {
        this.#refuse(socket, 401, client);
      } else {
        this.handle(req, socket, head, { context }, client);
      }
    } catch (error) {
      clearImmediate(shielding);
      release();
      this.#refuse(socket, 403, client);
      nextTick(report, 'allowUpgrade', error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Handles an upgrade request. Returns how the socket was taken over: `'native'` or `'bridge'`, or `'refused'`. Throws
   * only if the arguments of the program are invalid.
   */
  handle(req, socket, head, { remoteAddress, context }, client = clientOf(socket, remoteAddress)) {
    const text = contextText(context);
    const bytes = headOf(req);
    if (taken.has(socket)) {
      // A broker has it already: nothing is refused.
      return 'refused';
    }
    ignoreErrors(socket);
    if (isGone(socket) || isAnswering(socket)) {
      this.#reportRefused(client);
      socket.destroy();
      return 'refused';
    }
    const refuseWith = (status) => this.#refuse(socket, status, client);
    if (this.#isClosed) return refuseWith(503);
    if (isCut(req, socket)) return refuseWith(431);
    if (bytes === undefined || !isWebSocket(req) || hasBody(req)) return refuseWith(400);
    const { path } = this.#options;
    if (path !== undefined && pathOf(req) !== path) return refuseWith(404);
    this.#warn(socket);
    try {
      taken.add(socket);
      const upgrade = { ...client, context: text };
      return handOver(this.#native, socket, [bytes, head], upgrade, this.bridges);
    } catch (cause) {
      taken.delete(socket);
      if (cause.code !== 'ERR_WSMB_NOT_OPEN') {
        const message = `cannot take over a socket: ${cause.message}`;
        const error = Object.assign(coded('ERR_WSMB_ATTACH', message), { cause });
        nextTick(this.#options.report, 'handing over a socket', error);
      }
      return refuseWith(503);
    }
  }

  /** Warns once that sockets are bridged. */
  #warn(socket) {
    const reason = this.#hasWarned ? undefined : obstacle(socket);
    if (reason !== undefined) {
      this.#hasWarned = true;
      const message =
        `a WebSocket is read and written by JavaScript, because ${reason}: it is slower, and stops while the event loop ` +
        'is blocked. A broker with a port of its own, and "tls" there, has neither limit';
      process.emitWarning(message, { code: 'WSMB_BRIDGE' });
    }
  }
}

module.exports = Attachment;
