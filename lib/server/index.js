'use strict';

// The class Server: a broker. Its methods check their arguments; `ServerImpl` does the work.

const { EventEmitter } = require('node:events');
const util = require('node:util');
const { checkPattern, checkTopic } = require('../client/topics');
const { ASYNC_DISPOSE } = require('../node');
const {
  checkServer,
  checkCallback,
  checkClose,
  checkDisconnect,
  checkServerTls,
  checkJwt,
  checkAdminToken,
  checkUpgrade,
  checkUpgradeOptions,
  isHttpServer,
  checkArgument,
} = require('../options');
const ServerImpl = require('./serverImpl');

const kImpl = ServerImpl.key;

/**
 * A broker.
 *
 *     new WSMsgBroker.Server(port[, path][, options])
 *     new WSMsgBroker.Server({ port, host, path, ... })
 *     new WSMsgBroker.Server({ fd, path, ... })
 *     new WSMsgBroker.Server(httpServer, path[, options])
 *     new WSMsgBroker.Server({ server: httpServer, path, ... })
 *     new WSMsgBroker.Server({ noServer: true, ... })
 */
function Server(port, endpoint, options) {
  EventEmitter.call(this);
  const isObject = (value) => typeof value === 'object' && value !== null;
  let merged = port;
  if (!isObject(port) || isHttpServer(port)) {
    const source = isObject(port) ? { server: port } : { port };
    merged = isObject(endpoint)
      ? { ...endpoint, ...source }
      : { ...options, ...source, path: endpoint };
  }
  merged = checkServer(merged);
  const impl = new ServerImpl(this, merged);
  Object.defineProperty(this, kImpl, { value: impl });
  /** The id of the server's own client. */
  this.id = impl.id;
  /** An object like that of version 1, with the options of the constructor. Null once the server is closed. */
  this.wss = impl.facade;
  impl.start();
}

util.inherits(Server, EventEmitter);

/** The address of the listener: `{ address, family, port }`, the path of a Unix socket, or null. */
Server.prototype.address = function address() {
  return this[kImpl].address();
};

/**
 * Takes over the socket of an upgrade request that the program has received (`noServer`). Returns `'native'`, `'bridge'`
 * or `'refused'`.
 *
 *     server.handleUpgrade(req, socket, head[, { remoteAddress, context }])
 */
Server.prototype.handleUpgrade = function handleUpgrade(req, socket, head, options) {
  checkUpgrade(req, socket, head);
  return this[kImpl].handleUpgrade(
    req,
    socket,
    head ?? Buffer.alloc(0),
    checkUpgradeOptions(options),
  );
};

/** The address of the admin endpoint, as of `address()`; null without one. */
Server.prototype.adminAddress = function adminAddress() {
  return this[kImpl].adminAddress();
};

/** All metrics as text for Prometheus, or null once the server is closed. */
Server.prototype.metrics = function metrics() {
  return this[kImpl].metrics();
};

/** The counters of the server, or null once it is closed. */
Server.prototype.stats = function stats() {
  return this[kImpl].stats();
};

/** The ids registered at this broker. */
Server.prototype.ids = function ids() {
  return this[kImpl].ids();
};

/** Whether this id is registered at this broker. */
Server.prototype.has = function has(id) {
  return this[kImpl].has(checkArgument('id', id));
};

/**
 * Makes a client of this broker a subscriber of a topic or a pattern, whatever its grant allows, until its registration
 * ends. The client emits `'subscribed'`.
 */
Server.prototype.addSubscriber = async function addSubscriber(topic, id) {
  checkPattern(topic);
  this[kImpl].addSubscriber(topic, checkArgument('id', id));
};

/**
 * Ends the subscription of a client of this broker to a topic or a pattern, also one that the client has made. Resolves
 * with false if there was none.
 */
Server.prototype.removeSubscriber = async function removeSubscriber(topic, id) {
  checkPattern(topic);
  return this[kImpl].removeSubscriber(topic, checkArgument('id', id));
};

/** The ids at this broker that get messages to a topic, sorted. */
Server.prototype.subscribers = function subscribers(topic) {
  checkTopic(topic);
  return this[kImpl].subscribers(topic);
};

/** The numbers of messages and bytes in a mailbox: `{ messages, bytes }`; null if no rule allows the mailbox. */
Server.prototype.mailbox = function mailbox(name) {
  return this[kImpl].mailbox(checkArgument('id', name));
};

/** The cluster of the server, or null without `nats`. */
Object.defineProperty(Server.prototype, 'cluster', {
  configurable: true,
  get() {
    return this[kImpl].cluster;
  },
});

/**
 * Closes the connection that owns this id, after its queued messages are sent. The id is free when this returns.
 * Returns false if the id is not registered.
 *
 *     server.disconnect(id[, code[, reason]])
 *     server.disconnect(id, { code, reason, principal })
 *
 * With `principal: true` all connections of the same principal are closed.
 */
Server.prototype.disconnect = function disconnect(id, code, reason) {
  checkArgument('id', id);
  const options = typeof code === 'object' && code !== null ? code : { code, reason };
  return this[kImpl].disconnect(id, checkDisconnect(options));
};

/** Replaces the TLS certificate and options for new connections. If they are invalid, this throws and changes nothing. */
Server.prototype.setTls = function setTls(tls) {
  this[kImpl].setTls(checkServerTls(tls));
};

/**
 * Replaces the keys and conditions of tokens for new registrations. If they are invalid, this throws and changes
 * nothing.
 */
Server.prototype.setJwt = function setJwt(jwt) {
  this[kImpl].setJwt(checkJwt(jwt));
};

/** Replaces the token of the admin endpoint. If it is invalid, this throws and changes nothing. */
Server.prototype.setAdminToken = function setAdminToken(token) {
  this[kImpl].setAdminToken(checkAdminToken(token));
};

/**
 * Closes the server. The port is free when this returns; the promise resolves when the last connection has ended.
 * With `drain` pending requests have this time, in milliseconds, to be answered. With `delay` the server goes on for this
 * time first, but its admin endpoint is not ready, so that load balancers send no new clients. A second call without
 * `delay` ends that.
 *
 *     server.close([callback])
 *     server.close({ drain, delay }[, callback])
 */
Server.prototype.close = function close(options, callback) {
  const isCallback = typeof options === 'function';
  const checked = checkClose(isCallback ? undefined : options);
  const called = checkCallback(isCallback ? options : callback);
  return this[kImpl].close(checked, called);
};

/** The process may end while the server is open, if nothing else keeps it alive. Returns the server. */
Server.prototype.unref = function unref() {
  this[kImpl].setRef(false);
  return this;
};

/** Undoes `unref`: the server keeps the process alive while it is open, which is the default. Returns the server. */
Server.prototype.ref = function ref() {
  this[kImpl].setRef(true);
  return this;
};

/** The server's own client, which connects when this is first read. */
Object.defineProperty(Server.prototype, 'client', {
  configurable: true,
  get() {
    return this[kImpl].client;
  },
});

// Methods of the server's own client.

for (const name of ['send', 'publish', 'messages', 'handle']) {
  Server.prototype[name] = function asClient(...args) {
    return this.client[name](...args);
  };
}

for (const name of [
  'request',
  'requestAll',
  'deliver',
  'subscribe',
  'openMailbox',
  'presence',
  'watch',
]) {
  Server.prototype[name] = async function asClient(...args) {
    // Awaited, so that the stack of an error names the caller.
    return await this.client[name](...args);
  };
}

/** Closes the server at the end of an `await using` block. */
Server.prototype[ASYNC_DISPOSE] = function dispose() {
  return this.close();
};

/** Removes listeners, as EventEmitter does, but not the internal ones. */
Server.prototype.removeAllListeners = function removeAllListeners(...names) {
  EventEmitter.prototype.removeAllListeners.apply(this, names);
  this[kImpl].followListeners();
  return this;
};

/** A promise that resolves when the server listens. Rejects if it cannot. */
Object.defineProperty(Server.prototype, 'ready', {
  configurable: true,
  get() {
    return this[kImpl].ready.promise;
  },
});

/** The option `ackTimeout`: the time within which a request may be answered, in milliseconds. */
Object.defineProperty(Server.prototype, 'ttl', {
  configurable: true,
  get() {
    return this[kImpl].ttl;
  },
  set(millis) {
    this[kImpl].ttl = millis;
  },
});

module.exports = Server;
