'use strict';

// Converts the checked options of a server's constructor to those of the addon.

const crypto = require('node:crypto');
const net = require('node:net');
const path = require('node:path');
const util = require('node:util');
const { coded } = require('../errors');
const { NativeServer } = require('../native');
const { checkJwt } = require('../options');
const { encodePath } = require('../path');

/** The default options. */
const DEFAULTS = NativeServer.defaults(false);
const DEFAULT_ID = 'server';

/** The error for a port out of range; for `port` that of Node.js itself. */
function badPort(port, name) {
  if (name !== 'port') {
    const message = `option "${name}" is ${util.inspect(port)}, expected 0 to 65535, or a path`;
    return coded('ERR_SOCKET_BAD_PORT', message, RangeError);
  }
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

/** Converts a port, or the path of a Unix socket. */
function nativePort(port, name) {
  const number = typeof port === 'string' && port.trim() !== '' ? Number(port) : port;
  if (typeof port === 'string' && !(number >= 0)) {
    return { port: 0, unix: path.resolve(port) };
  }
  if (Number.isInteger(number) && number >= 0 && number < 65_536) {
    return { port: number };
  }
  throw badPort(port, name);
}

const invalid = (message) => coded('ERR_WSMB_OPTION', message, TypeError);

/** Converts the option `admin`. `ownFd`: the descriptor of the server's own socket, if it has one. */
function nativeAdmin({ port, fd, host, token }, ownFd) {
  if (port === undefined && fd === undefined) {
    throw invalid('option "admin" needs option "admin.port" or "admin.fd"');
  }
  if (fd === undefined) {
    return { host: host ?? DEFAULTS.admin.host, token, ...nativePort(port, 'admin.port') };
  }
  if (port !== undefined) {
    throw invalid('options "admin.port" and "admin.fd" exclude each other, expected one of them');
  }
  if (host !== undefined) {
    const reason = 'the inherited socket has its own address';
    throw invalid(`option "admin.host" has no effect with "admin.fd": ${reason}`);
  }
  if (fd === ownFd) {
    throw invalid(`options "fd" and "admin.fd" are both ${fd}, expected two sockets`);
  }
  return { host: DEFAULTS.admin.host, port: 0, token, fd };
}

/** Converts the option `store`. */
function nativeStore({ path: folder, sync, maxBytes }) {
  const delay = typeof sync === 'number' ? sync : undefined;
  return {
    path: path.resolve(folder),
    sync: delay === undefined ? sync : undefined,
    delay,
    maxBytes,
  };
}

/** Converts the option `jwt`. */
function nativeJwt({ secret, publicKey, issuer, audience, subject, ...others }) {
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
    fd,
    server,
    noServer,
    allowUpgrade,
    host = DEFAULTS.host,
    path: endpoint,
    trustProxy,
    socketMode,
    authenticate,
    authorize,
    jwt,
    admin,
    store,
    // For `ServerEvents`.
    logger: _logger,
    ...limits
  } = options;
  const hasAddress = (port !== undefined && port !== null) || fd !== undefined;
  const adopts = server !== undefined || noServer === true;
  if (!hasAddress && !adopts) {
    throw new TypeError('`port` or a `server` must be provided');
  }
  checkListener(options);
  const text = endpoint ? String(endpoint) : '';
  if (Buffer.from(text).toString() !== text) {
    throw coded('ERR_WSMB_OPTION', 'option "path" has a lone surrogate', TypeError);
  }
  const shown = { host, port, path: text.startsWith('/') ? text : `/${text}` };
  const authenticates = authenticate !== undefined;
  const native = { ...limits, host, port: 0, path: shown.path, authenticates, adopts };
  native.authorizes = authorize !== undefined;
  native.store = store && nativeStore(store);
  if (trustProxy !== undefined) {
    if (typeof trustProxy === 'object' || typeof trustProxy === 'string') {
      native.trustedNetworks = [trustProxy].flat();
    } else {
      native.trustProxy = trustProxy === true ? Number.POSITIVE_INFINITY : Number(trustProxy);
    }
  }
  if (admin !== undefined) {
    native.admin = nativeAdmin(admin, fd);
  }
  if (socketMode !== undefined) {
    native.socketMode =
      typeof socketMode === 'string' ? Number.parseInt(socketMode, 8) : socketMode;
  }
  if (jwt !== undefined) {
    if (authenticates) {
      throw coded(
        'ERR_WSMB_OPTION',
        'options "jwt" and "authenticate" exclude each other',
        TypeError,
      );
    }
    native.jwt = nativeJwt(checkJwt(jwt));
  }
  if (adopts) {
    return { ...identity(id, limits, native), shown, native, ...attachment(options, shown.path) };
  }
  Object.assign(native, fd === undefined ? nativePort(port, 'port') : { fd });
  return { ...identity(id, limits, native), shown, native };
}

/** Checks that the options name one source of connections, and that all of them apply to it. */
function checkListener({ port, fd, server, noServer, ...options }) {
  const given = Object.entries({ port, fd, server, noServer: noServer || undefined });
  const sources = given.filter(([, value]) => value !== undefined && value !== null);
  const names = sources.map(([name]) => `"${name}"`);
  if (names.length > 1) {
    const message = `options ${names.join(' and ')} exclude each other, expected one of them`;
    throw coded('ERR_WSMB_OPTION', message, TypeError);
  }
  const [[source]] = sources;
  for (const [name, reason] of Object.entries(USELESS[source])) {
    if (options[name] !== undefined) {
      const message = `option "${name}" has no effect with "${source}": ${reason}`;
      throw coded('ERR_WSMB_OPTION', message, TypeError);
    }
  }
}

/** The options that need an address, with the reason why they have no effect on `owner`. */
const addressed = (owner) =>
  Object.fromEntries(
    ['host', 'reusePort', 'socketMode'].map((name) => [name, `${owner} has its own address`]),
  );

const FOR_SERVER = { allowUpgrade: 'it is for "server"' };
const OF_HTTP = {
  ...addressed('the HTTP server'),
  tls: 'use an HTTPS server',
  proxyProtocol: 'the HTTP server reads its connections',
  health: 'the HTTP server answers other requests',
};

/** For each source of connections, the options that have no effect, with the reason. */
const USELESS = {
  port: FOR_SERVER,
  fd: { ...FOR_SERVER, ...addressed('the inherited socket') },
  server: OF_HTTP,
  noServer: { ...OF_HTTP, ...FOR_SERVER },
};

/** The options of `Attachment`. */
function attachment({ server, path: endpoint, allowUpgrade, handshakeTimeout }, shownPath) {
  const hasPath = server !== undefined || endpoint !== undefined;
  return {
    httpServer: server,
    attachment: {
      path: hasPath ? encodePath(shownPath) : undefined,
      allowUpgrade,
      handshakeTimeout: handshakeTimeout ?? DEFAULTS.handshakeTimeout,
    },
  };
}

/** The id of the server's own client, and whether the program has set it. */
function identity(id, limits, native) {
  const hasOwnId = id !== undefined;
  return { id: hasOwnId ? checkLength(id, limits) : defaultId(native), hasOwnId };
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

module.exports = { DEFAULTS, nativeJwt, parse };
