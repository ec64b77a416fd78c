'use strict';

// class Server, as programs have it. Routing is the addon's, on threads of its own.

const { EventEmitter } = require('node:events');
const util = require('node:util');
const Broker = require('./broker');
const { ASYNC_DISPOSE } = require('./client');
const {
  checkServer,
  checkClose,
  checkDisconnect,
  checkServerTls,
  checkArgument,
} = require('./options');

const kBroker = Symbol('broker');

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
 *
 *     server.disconnect(id[, code[, reason]])
 *     server.disconnect(id, { code, reason, principal })
 *
 * With `principal: true` all other connections of the same principal are closed, too.
 */
Server.prototype.disconnect = function disconnect(id, code, reason) {
  checkArgument('id', id);
  const options = typeof code === 'object' && code !== null ? code : { code, reason };
  return this[kBroker].disconnect(id, checkDisconnect(options));
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

module.exports = Server;
