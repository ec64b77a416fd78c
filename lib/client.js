'use strict';

// class WSMsgBroker in Node.js: where it connects to, and with which options.

const { EventEmitter } = require('node:events');
const util = require('node:util');
const ack = require('./ack');
const view = require('./ack2callback');
const { define, kSession } = require('./client/methods');
const Session = require('./client/session');
const { coded, nativeError } = require('./errors');
const { stringify } = require('./json');
const { NativeClient } = require('./native');
const { checkClient } = require('./options');
const Transport = require('./transport');

/** What holds where an option of the session is not set; all others are the core's. */
const DEFAULTS = {
  ...NativeClient.defaults(),
  protocol: 1,
  reconnect: false,
  resend: 'never',
  requestTimeout: 30_000,
};

/**
 * A connection to a broker, registered there under an id.
 *
 *     new WSMsgBroker(id, host, port[, path[, options]])
 *     new WSMsgBroker(id, 'ws://host:port/path'[, options])
 *     new WSMsgBroker(id, 'wss://host:port/path'[, options])
 */
function WSMsgBroker(id, host, port, path, options) {
  begin(this, id, parseTarget(host, port, path, options));
}

util.inherits(WSMsgBroker, EventEmitter);

define(WSMsgBroker);

function begin(client, id, target) {
  EventEmitter.call(client);
  client.id = id;
  const connect = (session, token) => new Transport(session, target, token);
  const session = new Session(client, target.session, ack, connect);
  session.toText = stringify;
  Object.defineProperty(client, kSession, { value: session });
}

/** A client within the process of its server, which `join` gives it the addon's half of. */
function startWithin(id, join) {
  const client = Object.create(WSMsgBroker.prototype);
  begin(client, id, { join, native: { protocol: 2 }, session: { ...DEFAULTS, protocol: 2 } });
  return client;
}

/** Missing in some versions of Node, where libraries agree on this. */
const ASYNC_DISPOSE = Symbol.asyncDispose ?? Symbol.for('nodejs.asyncDispose');

WSMsgBroker.prototype[ASYNC_DISPOSE] = function dispose() {
  return this.close();
};

/** The callbacks that await an answer, by ack, as version 1 had them. */
Object.defineProperty(WSMsgBroker.prototype, 'ack2callback', {
  configurable: true,
  get() {
    return view(this[kSession].requests);
  },
});

/** What may not stand in the path of a request as it is; escapes that are there already stay. */
const UNSAFE = /[^\x21-\x7e]|["<>\\^`{|}]/gu;

/** Host, port and path from either form of arguments. */
function parseTarget(host, port, path, options) {
  if (host instanceof URL || /^(?:ws|http)s?:\/\//i.test(host)) {
    let url;
    try {
      url = new URL(host);
    } catch {
      throw coded('ERR_WSMB_ADDRESS', `invalid address "${host}"`, TypeError);
    }
    const checked = checkClient(port);
    const secure = url.protocol === 'wss:' || url.protocol === 'https:';
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
      ...validated(checked),
    };
  }
  const text = (path ? String(path) : '').replace(UNSAFE, encodeURIComponent);
  return {
    host: String(host),
    port: Number(port),
    path: text.startsWith('/') ? text : `/${text}`,
    ...validated(checkClient(options)),
  };
}

/** Options of the session, and those of the addon, ranges and certificates checked. */
function validated(checked) {
  const { token, reconnect, resend, requestTimeout, signal, tls, ...native } = checked;
  if (tls) {
    native.tls = tls;
  }
  if (native.headers) {
    native.headers = Object.entries(native.headers);
  }
  try {
    NativeClient.validate({ host: '', port: 0, path: '/', ...native });
  } catch (error) {
    throw nativeError(error);
  }
  return { native, session: { ...DEFAULTS, ...checked } };
}

module.exports = { WSMsgBroker, ASYNC_DISPOSE, startWithin };
