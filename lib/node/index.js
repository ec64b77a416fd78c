'use strict';

// The class WSMsgBroker in Node.js, which connects through the addon.

const { EventEmitter } = require('node:events');
const util = require('node:util');
const { define, kSession } = require('../client/methods');
const Session = require('../client/session');
const signals = require('../client/signals');
const timers = require('../client/timers');
const eventHub = require('../eventHub');
const { stringify } = require('../json');
const ack = require('./ack');
const { DEFAULTS, parseArguments } = require('./address');
const { stackOf, withAwaiting } = require('./callerStack');
const { RequestsInContext, callbacksByAck } = require('./callbacks');
const Transport = require('./transport');

const { setTimeout, clearTimeout, setImmediate } = require('node:timers');

Object.assign(timers, {
  // While a client is open, the event hub keeps the process alive; afterwards no timer may.
  setTimeout: (...args) => setTimeout(...args).unref(),
  clearTimeout,
  afterEvents: setImmediate,
});
Object.assign(signals, require('./signals'));

/**
 * A client: a connection to a broker, on which an id is registered.
 *
 *     new WSMsgBroker(id, host, port[, path[, options]])
 *     new WSMsgBroker(id, 'ws://host:port/path'[, options])
 *     new WSMsgBroker(id, 'wss://host:port/path'[, options])
 *     new WSMsgBroker(id, [url, url][, options])
 *     new WSMsgBroker(id, () => url[, options])
 */
function WSMsgBroker(id, host, port, path, options) {
  initialize(this, id, parseArguments(id, host, port, path, options));
}

util.inherits(WSMsgBroker, EventEmitter);

define(WSMsgBroker);

const { send } = WSMsgBroker.prototype;

/** Sends a message. The error of a callback that is no function is that of 1.7.2. */
WSMsgBroker.prototype.send = function sendChecked(message, dest, callback) {
  if (callback && typeof callback !== 'function') {
    throw new Error('Client.send(data, callback) expects "callback" to be a Function');
  }
  return send.call(this, message, dest, callback);
};

for (const name of ['request', 'requestAll', 'deliver', 'connected']) {
  WSMsgBroker.prototype[name] = withAwaiting(WSMsgBroker.prototype[name]);
}

function initialize(client, id, { targets, settings }) {
  EventEmitter.call(client);
  client.id = id;
  const connect = (session, token, target) => new Transport(session, target, token);
  const session = new Session(client, targets, settings, ack, connect);
  session.toJsonText = stringify;
  session.context = eventHub.currentContext();
  session.requests = new RequestsInContext();
  session.creation = stackOf(initialize);
  session.onEnd = () => {
    eventHub.setRef(session, false);
    session.context.emitDestroy();
    session.requests.destroyContexts();
  };
  eventHub.setRef(session, true);
  Object.defineProperty(client, kSession, { value: session });
}

/** Creates a client in the process of its server. `join` creates the client's half in the addon. */
function createInProcess(id, join) {
  const client = Object.create(WSMsgBroker.prototype);
  const targets = [{ join, native: { protocol: 2 }, isOnly: true }];
  initialize(client, id, { targets, settings: { ...DEFAULTS, protocol: 2 } });
  return client;
}

/** The symbol is missing in some versions of Node.js, where libraries agree on this one. */
const ASYNC_DISPOSE = Symbol.asyncDispose ?? Symbol.for('nodejs.asyncDispose');

/** Lets the process end although the client is open. */
WSMsgBroker.prototype.unref = function unref() {
  eventHub.setRef(this[kSession], false);
  return this;
};

/** Reverts `unref`. */
WSMsgBroker.prototype.ref = function ref() {
  if (this.state !== 'closed') {
    eventHub.setRef(this[kSession], true);
  }
  return this;
};

WSMsgBroker.prototype[ASYNC_DISPOSE] = function dispose() {
  return this.close();
};

/** The pending callbacks by ack, as an object like that of version 1. */
Object.defineProperty(WSMsgBroker.prototype, 'ack2callback', {
  configurable: true,
  get() {
    return callbacksByAck(this[kSession].requests);
  },
});

module.exports = { WSMsgBroker, ASYNC_DISPOSE, createInProcess };
