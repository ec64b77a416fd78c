'use strict';

// The class WSMsgBroker in Node.js: parses the arguments of its constructor, and connects through the addon.

const { EventEmitter } = require('node:events');
const util = require('node:util');
const { define, kSession } = require('../client/methods');
const Session = require('../client/session');
const timers = require('../client/timers');
const { coded, nativeError } = require('../errors');
const eventHub = require('../eventHub');
const { stringify } = require('../json');
const { NativeClient } = require('../native');
const { checkClient, withTrust } = require('../options');
const ack = require('./ack');
const view = require('./ack2callback');
const { findProxy } = require('../proxy');
const Transport = require('./transport');

const { setTimeout, clearTimeout, setImmediate } = require('node:timers');

Object.assign(timers, {
  // While a client is open, the event hub keeps the process alive; afterwards no timer may.
  setTimeout: (...args) => setTimeout(...args).unref(),
  clearTimeout,
  afterEvents: setImmediate,
});

/** The defaults of all options: those of the addon, and those that only JavaScript knows. */
const DEFAULTS = {
  ...NativeClient.defaults(),
  /** Undefined: version 2 where the broker has it, with the arguments and events of 1.7.2. */
  protocol: undefined,
  reconnect: false,
  resend: 'never',
  requestTimeout: 30_000,
};

/**
 * A client: a connection to a broker, on which an id is registered.
 *
 *     new WSMsgBroker(id, host, port[, path[, options]])
 *     new WSMsgBroker(id, 'ws://host:port/path'[, options])
 *     new WSMsgBroker(id, 'wss://host:port/path'[, options])
 */
function WSMsgBroker(id, host, port, path, options) {
  initialize(this, id, parseTarget(id, host, port, path, options));
}

util.inherits(WSMsgBroker, EventEmitter);

define(WSMsgBroker);

function initialize(client, id, target) {
  EventEmitter.call(client);
  client.id = id;
  const connect = (session, token) => new Transport(session, target, token);
  const session = new Session(client, target.settings, ack, connect);
  session.toJsonText = stringify;
  session.onEnd = () => eventHub.setRef(session, false);
  eventHub.setRef(session, true);
  Object.defineProperty(client, kSession, { value: session });
}

/** Creates a client in the process of its server. `join` creates the client's half in the addon. */
function createInProcess(id, join) {
  const client = Object.create(WSMsgBroker.prototype);
  initialize(client, id, { join, native: { protocol: 2 }, settings: { ...DEFAULTS, protocol: 2 } });
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
    return view(this[kSession].requests);
  },
});

/** Characters that must be escaped in the path of an HTTP request. Existing escapes stay as they are. */
const UNSAFE = /[^\x21-\x7e]|["<>\\^`{|}]/gu;

/** Schemes of an address. `http:` and `https:` mean `ws:` and `wss:`, as in browsers. */
const SCHEMES = new Set(['ws:', 'wss:', 'http:', 'https:']);

const isMissing = (value) => value === undefined || value === null || value === '';

/** Parses either form of the constructor's arguments. */
function parseTarget(id, host, port, path, options) {
  if (isUrl(host)) {
    return parseUrl(host, port);
  }
  // Without a port, or with options in its place, the host is meant as a URL.
  if (isMissing(port) || typeof port === 'object') {
    throw isMissing(host) || typeof host === 'object' ? noAddress(id) : badAddress(host);
  }
  const text = (path ? String(path) : '').replace(UNSAFE, encodeURIComponent);
  return {
    path: text.startsWith('/') ? text : `/${text}`,
    ...parseOptions(checkClient(options), String(host), Number(port)),
  };
}

const isUrl = (value) => value instanceof URL || (typeof value === 'string' && /:\/\//.test(value));

function parseUrl(text, options) {
  let url;
  try {
    url = new URL(text);
  } catch {
    throw badAddress(text);
  }
  if (!SCHEMES.has(url.protocol)) {
    throw badAddress(text);
  }
  // Browsers refuse a fragment, even an empty one.
  if (url.href.includes('#')) {
    throw badAddress(text, 'without a fragment (#)');
  }
  const checked = checkClient(options);
  const isSecure = url.protocol === 'wss:' || url.protocol === 'https:';
  checked.tls ??= isSecure ? {} : false;
  if (isSecure !== Boolean(checked.tls)) {
    const address = `${url.protocol}//${url.host}`;
    const advice = isSecure ? 'remove the option, or use ws://' : 'use wss:// with it';
    const message = `option "tls" contradicts the URL "${address}": ${advice}`;
    throw coded('ERR_WSMB_OPTION', message, TypeError);
  }
  // A URL leaves out the default port of its scheme.
  const port = url.port === '' ? (isSecure ? 443 : 80) : Number(url.port);
  return {
    path: url.pathname + url.search,
    ...parseOptions(withCredentials(checked, url), url.hostname, port),
  };
}

/** Adds the user and password of a URL as the header `Authorization`, unless the options have this header. */
function withCredentials(checked, url) {
  const { username, password } = url;
  const names = Object.keys(checked.headers ?? {});
  if (
    (username === '' && password === '') ||
    names.some((name) => name.toLowerCase() === 'authorization')
  ) {
    return checked;
  }
  let credentials;
  try {
    credentials = [username, password].map(decodeURIComponent).join(':');
  } catch {
    throw badAddress(url, 'with user and password as valid URL escapes');
  }
  const authorization = `Basic ${Buffer.from(credentials).toString('base64')}`;
  return { ...checked, headers: { ...checked.headers, authorization } };
}

/** An address as text, with its password hidden. */
const printable = (address) => String(address).replace(/(:\/\/[^/?#@:]*:)[^/?#]*@/, '$1***@');

/** The error of an address that is no URL of a broker. */
function badAddress(address, condition) {
  const expected = `ws://host:port/path or wss://host:port/path${condition ? `, ${condition}` : ''}`;
  const message = `invalid URL "${printable(address)}": expected ${expected}`;
  return coded('ERR_WSMB_ADDRESS', message, TypeError);
}

/** The error of a constructor without an address, perhaps because the id was forgotten. */
function noAddress(id) {
  const example = isUrl(id) ? printable(id) : 'ws://host:port/path';
  const reason = isUrl(id) ? 'the first argument is a URL, not an id' : 'there is no address';
  const message = `${reason}: expected new WSMsgBroker(id, ${JSON.stringify(example)})`;
  return coded('ERR_WSMB_ADDRESS', message, TypeError);
}

/** Divides checked options into those of the addon, which checks their ranges, and those of the session. */
function parseOptions(checked, host, port) {
  const { token, reconnect, resend, requestTimeout, signal, tls, proxy, ...native } = checked;
  if (tls) {
    native.tls = withTrust(tls);
  }
  const url = findProxy(proxy, host, port, Boolean(tls));
  if (url !== undefined) {
    native.proxy = { url, tls: withTrust({ ca: tls?.ca }) };
  }
  if (native.headers) {
    native.headers = Object.entries(native.headers);
  }
  try {
    NativeClient.validate({ host: '', port: 0, path: '/', ...native });
  } catch (error) {
    throw nativeError(error);
  }
  return { host, port, native, settings: { ...DEFAULTS, ...checked } };
}

module.exports = { WSMsgBroker, ASYNC_DISPOSE, createInProcess };
