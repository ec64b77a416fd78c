'use strict';

// The class WSMsgBroker for browsers and other environments that have a `WebSocket` and no addon.

const ack = require('./ack');
const { unknownOption } = require('../client/arguments');
const { coded } = require('../client/errors');
const { define, kSession } = require('../client/methods');
const Session = require('../client/session');
const Emitter = require('../client/emitter');
const open = require('./transport');

/** All options and their defaults. */
const DEFAULTS = {
  protocol: 2,
  token: undefined,
  reconnect: false,
  resend: 'never',
  session: true,
  requestTimeout: 30_000,
  connectTimeout: 30_000,
  pingInterval: 25_000,
  pingTimeout: 20_000,
  highWaterMark: 1024 * 1024,
  maxQueued: 1024 * 1024 * 1024,
  signal: undefined,
  tls: undefined,
  WebSocket: undefined,
};

/**
 * A client: a connection to a broker, on which an id is registered.
 *
 *     new WSMsgBroker(id, host, port[, path[, options]])
 *     new WSMsgBroker(id, 'wss://host:port/path'[, options])
 *     new WSMsgBroker(id, [url, url][, options])
 *     new WSMsgBroker(id, () => url[, options])
 */
class WSMsgBroker extends Emitter {
  constructor(id, host, port, path, options) {
    super();
    this.id = id;
    const isUrl = typeof (port ?? {}) === 'object';
    // Options may take the place of the path.
    const given = [port, path, options].find((value) => Object(value) === value) ?? {};
    const all = { ...DEFAULTS, WebSocket: globalThis.WebSocket };
    for (const [name, value] of Object.entries(given)) {
      if (!(name in DEFAULTS)) {
        throw unknownOption(name, Object.keys(DEFAULTS));
      }
      all[name] = value ?? all[name];
    }
    // Browsers allow a page loaded by https to connect by wss only.
    const { tls = globalThis.location?.protocol === 'https:' } = all;
    const scheme = tls ? 'wss' : 'ws';
    const addresses = isUrl
      ? [host].flat()
      : [`${scheme}://${host}:${port}/${path?.replace?.(/^\//, '') ?? ''}`];
    const session = new Session(this, addresses, all, ack, open);
    Object.defineProperty(this, kSession, { value: session });
    // The network is back, or the page is visible again.
    const end = new AbortController();
    session.onEnd = () => end.abort();
    for (const name of ['online', 'visibilitychange']) {
      globalThis.addEventListener?.(name, () => session.reconnectNow(), end);
    }
  }
}

define(WSMsgBroker);

/** The class Server, which browsers cannot provide. */
WSMsgBroker.Server = class Server {
  constructor() {
    throw coded('ERR_WSMB_BROWSER', 'Server requires Node.js');
  }
};

module.exports = WSMsgBroker;
