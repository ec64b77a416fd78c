'use strict';

// Converts the checked options of a server's constructor to those of the addon.

const crypto = require('node:crypto');
const net = require('node:net');
const path = require('node:path');
const util = require('node:util');
const { coded } = require('../errors');
const { NativeServer } = require('../native');

/** The default options. */
const DEFAULTS = NativeServer.defaults(false);
const DEFAULT_ID = 'server';

/** The error of Node.js itself for a port out of range. */
function badPort(port) {
  const probe = net.createServer();
  try {
    probe.listen({ port });
  } catch (error) {
    return error;
  }
  probe.close();
  const message = `options.port should be >= 0 and < 65536. Received ${util.inspect(port)}.`;
  return coded('ERR_SOCKET_BAD_PORT', message, RangeError);
}

/** Converts the option `jwt`. */
function nativeJwt({ secret, publicKey, issuer, audience, subject, ...others }) {
  if ((secret === undefined) === (publicKey === undefined)) {
    const message = 'option "jwt" needs exactly one of "secret" and "publicKey"';
    throw coded('ERR_WSMB_OPTION', message, TypeError);
  }
  return {
    ...others,
    secret: secret === undefined ? undefined : [...Buffer.from(secret)],
    publicKey: publicKey === undefined ? undefined : [...Buffer.from(publicKey)],
    issuer: issuer === undefined ? undefined : [issuer].flat(),
    audience: audience === undefined ? undefined : [audience].flat(),
    pattern: subject === 'pattern',
  };
}

/** Converts all options. `shown` are the members of `wss.options`. */
function parse({ id, ...options }) {
  const {
    port,
    host = DEFAULTS.host,
    path: endpoint,
    trustProxy,
    authenticate,
    jwt,
    ...limits
  } = options;
  if (port === undefined || port === null) {
    throw new TypeError('`port` or a `server` must be provided');
  }
  const text = endpoint ? String(endpoint) : '';
  if (Buffer.from(text).toString() !== text) {
    throw coded('ERR_WSMB_OPTION', 'option "path" has a lone surrogate', TypeError);
  }
  const shown = { host, port, path: text.startsWith('/') ? text : `/${text}` };
  const authenticates = authenticate !== undefined;
  const native = { ...limits, host, port: 0, path: shown.path, authenticates };
  if (trustProxy !== undefined) {
    native.trustProxy = trustProxy === true ? Number.POSITIVE_INFINITY : Number(trustProxy);
  }
  if (jwt !== undefined) {
    if (authenticates) {
      throw coded(
        'ERR_WSMB_OPTION',
        'options "jwt" and "authenticate" exclude each other',
        TypeError,
      );
    }
    native.jwt = nativeJwt(jwt);
  }
  const number = typeof port === 'string' && port.trim() !== '' ? Number(port) : port;
  if (typeof port === 'string' && !(number >= 0)) {
    native.unix = path.resolve(port);
  } else if (Number.isInteger(number) && number >= 0 && number < 65_536) {
    native.port = number;
  } else {
    throw badPort(port);
  }
  const hasOwnId = id !== undefined;
  return { id: hasOwnId ? checkLength(id, limits) : defaultId(native), hasOwnId, shown, native };
}

/** The id of the server's own client if the program sets none. In a cluster it contains the broker's name. */
function defaultId({ nats }) {
  if (nats === undefined) {
    return DEFAULT_ID;
  }
  nats.name ??= crypto.randomBytes(8).toString('hex');
  return `${DEFAULT_ID}-${nats.name}`;
}

/** Checks that the id of the server's own client can be registered. */
function checkLength(id, { maxIdLength = DEFAULTS.maxIdLength }) {
  const length = Buffer.byteLength(id);
  if (length === 0 || length > maxIdLength) {
    const message = `option "id" has ${length} bytes, expected 1 to ${maxIdLength}`;
    throw coded('ERR_WSMB_OPTION', message, RangeError);
  }
  return id;
}

module.exports = { DEFAULTS, parse };
