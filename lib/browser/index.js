'use strict';

// class WSMsgBroker where there is no addon: in browsers, and wherever there is a WebSocket.

const ack = require('./ack');
const { coded } = require('../client/errors');
const { define, kSession } = require('../client/methods');
const Session = require('../client/session');
const Emitter = require('./emitter');
const open = require('./transport');

/** All options, and what holds where they are not set. */
const DEFAULTS = {
  protocol: 2,
  token: undefined,
  reconnect: false,
  resend: 'never',
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
 * A connection to a broker, registered there under an id.
 *
 *     new WSMsgBroker(id, host, port[, path[, options]])
 *     new WSMsgBroker(id, 'wss://host:port/path'[, options])
 */
class WSMsgBroker extends Emitter {
  constructor(id, host, port, path, options) {
    super();
    this.id = id;
    const isUrl = /:\/\//.test(host);
    const given = (isUrl ? port : options) ?? {};
    const all = { ...DEFAULTS, WebSocket: globalThis.WebSocket };
    for (const [name, value] of Object.entries(given)) {
      if (!(name in DEFAULTS)) {
        throw coded('ERR_WSMB_OPTION', `unknown option "${name}"`, TypeError);
      }
      all[name] = value ?? all[name];
    }
    // A page that came by TLS may connect by nothing else.
    const { tls = globalThis.location?.protocol === 'https:' } = all;
    const scheme = tls ? 'wss' : 'ws';
    const url = isUrl
      ? host
      : `${scheme}://${host}:${port}/${String(path ?? '').replace(/^\//, '')}`;
    const connect = (session, token) => open(session, url, token, all);
    Object.defineProperty(this, kSession, { value: new Session(this, all, ack, connect) });
  }
}

define(WSMsgBroker);

/** As in version 1, only a program of Node.js can be a server. */
WSMsgBroker.Server = class Server {
  constructor() {
    throw coded('ERR_WSMB_BROWSER', 'a browser cannot listen: use Node.js');
  }
};

module.exports = WSMsgBroker;
