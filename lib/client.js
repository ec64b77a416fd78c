'use strict';

// class WSMsgBroker: arguments in, events out. The wire is the addon's.

const { EventEmitter } = require('node:events');
const util = require('node:util');
const ack = require('./ack');
const Connection = require('./connection');
const { coded, nativeError } = require('./errors');
const { NativeClient } = require('./native');
const { checkClient } = require('./options');

/** Where a client keeps its connection; not a private field, because 1.x programs subclass by `call`. */
const kConnection = Symbol('connection');

/**
 * A connection to a broker, registered there under an id.
 *
 *     new WSMsgBroker(id, host, port[, path[, options]])
 *     new WSMsgBroker(id, 'ws://host:port/path'[, options])
 *     new WSMsgBroker(id, 'wss://host:port/path'[, options])
 */
function WSMsgBroker(id, host, port, path, options) {
  EventEmitter.call(this);
  this.id = id;
  const target = parseTarget(host, port, path, options);
  Object.defineProperty(this, kConnection, { value: new Connection(this, target) });
}

util.inherits(WSMsgBroker, EventEmitter);

/**
 * Sends `message` to one id or to many. With a callback, the fastest receiver's answer arrives as
 * `callback(from, answer)`. Returns false above the high-water mark: `'drain'` follows.
 */
WSMsgBroker.prototype.send = function send(message, dest, callback) {
  const connection = this[kConnection];
  if (callback && typeof callback !== 'function') {
    throw new Error('Client.send(data, callback) expects "callback" to be a Function');
  }
  const text = JSON.stringify(message) ?? '';
  const to = typeof dest === 'string' ? idText(dest) : (JSON.stringify(dest) ?? '');
  connection.assertOpen();
  if (!callback) {
    return connection.push(`s${text}\t${to}\t\n`);
  }
  const key = ack();
  const accepted = connection.push(`s${text}\t${to}\t"${key}"\n`, true);
  connection.pending.add(key, callback);
  return accepted;
};

/** Registers again, with another token: what was granted is renewed. `'registered'` follows. */
WSMsgBroker.prototype.register = function register(token) {
  if (token !== undefined && typeof token !== 'string') {
    throw coded('ERR_WSMB_OPTION', `token is ${String(token)}, expected a string`, TypeError);
  }
  this[kConnection].assertOpen();
  this[kConnection].push(`r${JSON.stringify(token) ?? ''}\n`);
};

/** Gives up the id; the connection stays open. */
WSMsgBroker.prototype.unregister = function unregister() {
  this[kConnection].assertOpen();
  this[kConnection].push('u\n');
};

/** Closes the connection; resolves when it has ended. */
WSMsgBroker.prototype.close = function close() {
  return this[kConnection].close();
};

/** The id of the message before, and its JSON: the next one often is for the same. */
let lastId = '';
let lastIdText = '""';

function idText(id) {
  if (id !== lastId) {
    lastIdText = JSON.stringify(id);
    lastId = id;
  }
  return lastIdText;
}

/** The callbacks that await an answer, by ack, as version 1 had them. */
Object.defineProperty(WSMsgBroker.prototype, 'ack2callback', {
  configurable: true,
  get() {
    return this[kConnection].pending.view();
  },
});

/** Bytes that wait to be written. */
Object.defineProperty(WSMsgBroker.prototype, 'bufferedAmount', {
  configurable: true,
  get() {
    return this[kConnection].bufferedAmount;
  },
});

/** What may not stand in the path of a request as it is; escapes that are there already stay. */
const UNSAFE = /[^\x21-\x7e]|["<>\\^`{|}]/gu;

/** Host, port and path from either form of arguments. */
function parseTarget(host, port, path, options) {
  if (typeof host === 'string' && /^wss?:\/\//i.test(host)) {
    let url;
    try {
      url = new URL(host);
    } catch {
      throw coded('ERR_WSMB_ADDRESS', `invalid address "${host}"`, TypeError);
    }
    const checked = checkClient(port);
    const secure = url.protocol === 'wss:';
    checked.tls ??= secure ? {} : false;
    // A contradiction, of which neither half can be meant.
    if (secure !== Boolean(checked.tls)) {
      const message = `option "tls" contradicts the address "${url.protocol}//${url.host}"`;
      throw coded('ERR_WSMB_OPTION', message, TypeError);
    }
    return {
      host: url.hostname,
      // The port that is usual for the scheme is left out of a URL.
      port: url.port === '' ? (secure ? 443 : 80) : Number(url.port),
      path: url.pathname + url.search,
      options: validated(checked),
    };
  }
  const text = (path ? String(path) : '').replace(UNSAFE, encodeURIComponent);
  return {
    host: String(host),
    port: Number(port),
    path: text.startsWith('/') ? text : `/${text}`,
    options: validated(checkClient(options)),
  };
}

/** Options as the addon wants them, ranges and certificates checked. */
function validated({ tls, ...checked }) {
  const native = tls ? { ...checked, tls } : checked;
  if (native.headers) {
    native.headers = Object.entries(native.headers);
  }
  try {
    NativeClient.validate({ host: '', port: 0, path: '/', ...native });
  } catch (error) {
    throw nativeError(error);
  }
  return native;
}

module.exports = WSMsgBroker;
