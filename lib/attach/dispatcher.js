'use strict';

// Finds the broker for an upgrade request of an HTTP server, beside other WebSocket servers there.

const tls = require('node:tls');
const { coded } = require('../errors');
const { headOf, isWebSocket, pathOf, refuse } = require('./request');

// Captured here, because fake timers of a test framework replace it later.
const { nextTick } = process;

/** The headers that ask for an upgrade. */
const UPGRADE = new Set(['upgrade', 'connection', 'http2-settings']);

/** Members of a socket that other listeners use in the rest of the tick. */
const METHODS = ['write', 'end', 'destroy', 'destroySoon'];
const STATES = ['readable', 'writable'];

/**
 * Makes a socket useless for the other listeners of its upgrade request, which run in the rest of this tick: some answer
 * 400 to paths that are not theirs, others take every socket.
 */
function shield(socket) {
  const names = [...METHODS, ...STATES];
  const own = names.map((name) => [name, Object.getOwnPropertyDescriptor(socket, name)]);
  const define = (name, value) =>
    Object.defineProperty(socket, name, { value, configurable: true, writable: true });
  for (const name of METHODS) define(name, () => name !== 'write' && socket);
  for (const name of STATES) define(name, false);
  nextTick(() => {
    for (const [name, descriptor] of own) {
      delete socket[name];
      if (descriptor) Object.defineProperty(socket, name, descriptor);
    }
  });
}

/** Gives a request back to its HTTP server, to be answered without an upgrade. */
function giveBack(httpServer, req, socket, head) {
  const bytes = headOf(req, (name) => UPGRADE.has(name));
  if (bytes === undefined || socket.destroyed) {
    socket.destroy();
    return;
  }
  socket.unshift(Buffer.concat([bytes, head]));
  httpServer.emit(socket instanceof tls.TLSSocket ? 'secureConnection' : 'connection', socket);
}

/** The brokers of an HTTP server. */
class Dispatcher {
  #httpServer;
  /** By path, the function that handles its upgrade requests. */
  #handlers = new Map();

  constructor(httpServer) {
    this.#httpServer = httpServer;
  }

  add(path, handler) {
    if (this.#handlers.has(path)) {
      throw coded('ERR_WSMB_OPTION', `the HTTP server has a broker at path ${path} already`);
    }
    if (this.#handlers.size === 0) {
      // Before the listeners of others, which may answer or close every socket.
      this.#httpServer.prependListener('upgrade', this.#onUpgrade);
    }
    this.#handlers.set(path, handler);
  }

  remove(path) {
    this.#handlers.delete(path);
    if (this.#handlers.size === 0) {
      this.#httpServer.removeListener('upgrade', this.#onUpgrade);
    }
  }

  #onUpgrade = (req, socket, head) => {
    const handler = this.#handlers.get(pathOf(req));
    const isAlone = this.#httpServer.listenerCount('upgrade') === 1;
    if (isWebSocket(req) && handler) {
      handler(req, socket, head);
    } else if (!isAlone) {
      return;
    } else if (isWebSocket(req)) {
      // No other listener answers, and Node.js has no timeout for it.
      nextTick(refuse, socket, 404);
    } else {
      // Without an upgrade listener Node.js would ignore the header.
      nextTick(giveBack, this.#httpServer, req, socket, head);
    }
    if (!isAlone && !socket.destroyed) {
      shield(socket);
    }
  };
}

/** The dispatchers of HTTP servers. */
const dispatchers = new WeakMap();

/** Calls `handler(req, socket, head)` for the upgrade requests with this path. Returns a function that ends it. */
function listen(httpServer, path, handler) {
  const dispatcher = dispatchers.get(httpServer) ?? new Dispatcher(httpServer);
  dispatchers.set(httpServer, dispatcher);
  dispatcher.add(path, handler);
  return () => dispatcher.remove(path);
}

module.exports = listen;
