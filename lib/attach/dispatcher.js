'use strict';

// Finds the broker for an upgrade request of an HTTP server, beside other WebSocket servers there.

const tls = require('node:tls');
const { coded } = require('../errors');
const request = require('./request');
const { IN_TICK, shield } = require('./shield');

// Captured here, because fake timers of a test framework replace it later.
const { nextTick } = process;
const { hasBody, headOf, ignoreErrors, isAnswering, isCut, isWebSocket, pathOf, refuse } = request;

/** The headers that ask for an upgrade. */
const UPGRADE = new Set(['upgrade', 'http2-settings']);

/** The value of a header in a request without an upgrade; undefined if it has none then. */
function withoutUpgrade(name, value) {
  if (name !== 'connection') {
    return UPGRADE.has(name) ? undefined : value;
  }
  const options = value.split(',').map((option) => option.trim());
  return options.filter((option) => !UPGRADE.has(option.toLowerCase())).join(', ') || undefined;
}

/**
 * Gives a request back to its HTTP server, to be answered without an upgrade. Only for versions of Node.js in which the
 * server cannot be asked before: they pass the body as it came.
 */
function giveBack(httpServer, req, socket, head) {
  const bytes = headOf(req, withoutUpgrade);
  if (bytes === undefined || socket.destroyed) {
    socket.destroy();
    return;
  }
  socket.unshift(Buffer.concat([bytes, head]));
  httpServer.emit(httpServer instanceof tls.Server ? 'secureConnection' : 'connection', socket);
}

/** The brokers of an HTTP server. */
class Dispatcher {
  #httpServer;
  /** By path, `{ handle, reportRefused }`: see `listen`. */
  #handlers = new Map();
  /** The function of the HTTP server that decides about upgrades, if it has one. */
  #askedBefore;

  constructor(httpServer) {
    this.#httpServer = httpServer;
  }

  add(path, handler) {
    if (this.#handlers.has(path)) {
      throw coded('ERR_WSMB_OPTION', `the HTTP server has a broker at path ${path} already`);
    }
    const httpServer = this.#httpServer;
    if (!httpServer.listeners('upgrade').includes(this.#onUpgrade)) {
      // Before the listeners of others, which may answer or close every socket.
      httpServer.prependListener('upgrade', this.#onUpgrade);
    }
    if (this.#handlers.size === 0 && typeof httpServer.shouldUpgradeCallback === 'function') {
      this.#askedBefore = httpServer.shouldUpgradeCallback;
      httpServer.shouldUpgradeCallback = this.#shouldUpgrade;
    }
    this.#handlers.set(path, handler);
  }

  remove(path) {
    this.#handlers.delete(path);
    if (this.#handlers.size === 0) {
      const httpServer = this.#httpServer;
      httpServer.removeListener('upgrade', this.#onUpgrade);
      if (httpServer.shouldUpgradeCallback === this.#shouldUpgrade) {
        httpServer.shouldUpgradeCallback = this.#askedBefore;
      }
    }
  }

  get #isAlone() {
    return this.#httpServer.listenerCount('upgrade') === 1;
  }

  /** Newer versions of Node.js ask this before the event: without it they would ignore an upgrade to `h2c`. */
  #shouldUpgrade = (req) =>
    this.#isAlone && !isWebSocket(req) ? false : this.#askedBefore.call(this.#httpServer, req);

  /** The handler that reports a refused request: that of its path, or else the first one. */
  #reporter(handler) {
    const [first] = this.#handlers.values();
    return handler ?? first;
  }

  #onUpgrade = (req, socket, head) => {
    const handler = this.#handlers.get(pathOf(req));
    const isOurs = isWebSocket(req) && handler !== undefined;
    if (!isOurs && !this.#isAlone) {
      return;
    }
    ignoreErrors(socket);
    const mayReturn = !isWebSocket(req) && !isCut(req, socket);
    if (mayReturn && !(this.#askedBefore && hasBody(req))) {
      const give = () => giveBack(this.#httpServer, req, socket, head);
      // Behind the answer to a request before it.
      const answer = socket._httpMessage;
      if (answer) answer.once('close', () => nextTick(give));
      else nextTick(give);
    } else if (isAnswering(socket)) {
      this.#reporter(handler)?.reportRefused(socket);
      socket.destroy();
      return;
    } else if (isOurs) {
      handler.handle(req, socket, head);
    } else {
      // No other listener answers, and Node.js has no timeout for it. Or a body was left out, or read already: the next
      // request would be taken for it.
      const status = isWebSocket(req) ? 404 : 400;
      this.#reporter(handler)?.reportRefused(socket, status);
      nextTick(refuse, socket, status);
    }
    if (!this.#isAlone && !socket.destroyed) {
      nextTick(shield(socket, IN_TICK));
    }
  };
}

/** The dispatchers of HTTP servers. */
const dispatchers = new WeakMap();

/**
 * Calls `handler.handle(req, socket, head)` for the upgrade requests with this path, and `handler.reportRefused(socket,
 * status)` before a request is refused here; without a status the socket is closed without a response. Returns a function
 * that ends it.
 */
function listen(httpServer, path, handler) {
  const dispatcher = dispatchers.get(httpServer) ?? new Dispatcher(httpServer);
  dispatchers.set(httpServer, dispatcher);
  dispatcher.add(path, handler);
  return () => dispatcher.remove(path);
}

module.exports = listen;
