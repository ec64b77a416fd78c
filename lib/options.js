'use strict';

// The names and types of all options, and the functions that check them. src/options.rs has the defaults, and the
// ranges of most options.

const net = require('node:net');
const util = require('node:util');
const { MAX_TIMER } = require('./client/wait');
const closest = require('./closest');
const { coded } = require('./errors');
const { LEVELS } = require('./log/events');
const { parseProxy } = require('./proxy');
const trustStore = require('./trust');

/** The longest timeout of the addon: 100 years, in milliseconds. */
const MAX_TIMEOUT = 100 * 365 * 86_400_000;

const VERSIONS = ['TLSv1.2', 'TLSv1.3'];

/** The option `tls` of a server. Certificates and keys are PEM, or the path of a PEM file. */
const SERVER_TLS = {
  cert: 'bytes',
  key: 'bytes',
  ca: 'authorities',
  minVersion: VERSIONS,
  requestCert: 'boolean',
};

/** The option `tls` of a client, and of `nats`. */
const CLIENT_TLS = {
  ca: 'authorities',
  servername: 'string',
  cert: 'bytes',
  key: 'bytes',
  rejectUnauthorized: 'boolean',
  minVersion: VERSIONS,
};

/** The option `nats`: the NATS servers by which brokers form a cluster. */
const NATS = {
  servers: 'list',
  namespace: 'string',
  name: 'string',
  user: 'string',
  pass: 'string',
  token: 'string',
  nkey: 'string',
  creds: 'string',
  tls: CLIENT_TLS,
  required: 'boolean',
  timeout: 'number',
};

/** Ways to authenticate at NATS, which exclude each other. */
const NATS_AUTH = ['user', 'token', 'nkey', 'creds'];

const SERVER = {
  port: 'any',
  fd: 'descriptor',
  server: 'httpServer',
  noServer: 'boolean',
  allowUpgrade: 'function',
  id: 'string',
  host: 'string',
  reusePort: 'boolean',
  path: 'any',
  trustProxy: 'hops',
  proxyProtocol: 'boolean',
  health: 'string',
  socketMode: 'mode',
  threads: 'number',
  maxPayload: 'number',
  clientMaxPayload: 'number',
  maxBackpressure: 'number',
  slowConsumer: ['pushback', 'close', 'drop'],
  slowConsumerTimeout: 'number',
  maxMemory: 'number',
  maxConnections: 'number',
  maxIdLength: 'number',
  maxDest: 'number',
  maxFanoutBytes: 'number',
  maxSubscriptions: 'number',
  maxPatterns: 'number',
  maxPresenceInfo: 'number',
  maxPresenceNames: 'number',
  presenceTimeout: 'number',
  sessionTimeout: 'number',
  maxSessionBuffer: 'number',
  allowWait: 'boolean',
  maxFragments: 'number',
  maxControlFrames: 'number',
  maxProtocolErrors: 'number',
  rateLimit: { messages: 'number', bytes: 'number' },
  keep: 'rules',
  mailboxes: 'mailboxRules',
  store: { path: 'string', sync: 'sync', maxBytes: 'number' },
  maxHeaderSize: 'number',
  handshakeTimeout: 'number',
  registerTimeout: 'number',
  pingInterval: 'number',
  pingTimeout: 'number',
  closeTimeout: 'number',
  ackTimeout: 'number',
  maxPendingAcks: 'number',
  jwt: {
    secret: 'bytes',
    publicKey: 'bytes',
    algorithms: 'strings',
    issuer: 'list',
    audience: 'list',
    subject: ['exact', 'pattern'],
    leeway: 'number',
    requireExp: 'boolean',
  },
  authenticate: 'function',
  authenticateTimeout: 'number',
  authorize: 'function',
  allowedOrigins: 'strings',
  tls: SERVER_TLS,
  nats: NATS,
  admin: { port: 'any', fd: 'descriptor', host: 'string', token: 'string' },
  logger: 'logger',
};

/** A rule of the option `keep`. */
const KEEP = {
  topic: 'string',
  messages: 'number',
  age: 'number',
  bytes: 'number',
  disk: 'boolean',
};

/** A rule of the option `mailboxes`. */
const MAILBOX = {
  mailbox: 'string',
  topic: 'string',
  messages: 'number',
  bytes: 'number',
  totalBytes: 'number',
  age: 'number',
  disk: 'boolean',
  maxDeliver: 'number',
  deadLetters: 'string',
};

const RECONNECT = {
  minDelay: 'delay',
  maxDelay: 'delay',
  factor: 'factor',
  jitter: 'share',
  maxAttempts: 'count',
};

const CLIENT = {
  protocol: [1, 2],
  token: 'token',
  reconnect: RECONNECT,
  resend: ['never', 'requests'],
  session: 'session',
  requestTimeout: 'timeout',
  signal: 'signal',
  headers: 'headers',
  maxPayload: 'number',
  highWaterMark: 'number',
  maxQueued: 'number',
  connectTimeout: 'number',
  pingInterval: 'number',
  pingTimeout: 'number',
  closeTimeout: 'number',
  tls: CLIENT_TLS,
  proxy: 'proxy',
};

/** Arguments of a server's methods. */
const ARGUMENTS = { id: 'string', timeout: 'timeout' };
/** Options of `handleUpgrade`. */
const UPGRADE = { remoteAddress: 'address', context: 'any' };
/** Options of `disconnect`. */
const DISCONNECT = { code: 'number', reason: 'string', principal: 'boolean' };

/** True for a server of `node:http` or `node:https`, or an object like that. */
const isHttpServer = (value) =>
  typeof value?.prependListener === 'function' && typeof value.listen === 'function';

const isString = (value) => typeof value === 'string';
const isPlain = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** The type of a number with a range. */
const limited = (accepts, expected) => [
  (value) => typeof value === 'number',
  'a number',
  [accepts, expected],
];

/**
 * The types of options: a function that accepts a value, the expected value in words, and for some a range: a function
 * and the expected values in words.
 */
const TYPES = {
  any: [() => true],
  number: [
    (value) => typeof value === 'number' && value >= 0,
    'a number that is not negative',
    // A fraction would be rounded down, and 0 turns some limits off.
    [Number.isInteger, 'a whole number'],
  ],
  string: [isString, 'a string'],
  token: [
    (value) => isString(value) || typeof value === 'function',
    'a string or a function that returns one',
  ],
  session: [
    (value) =>
      typeof value === 'boolean' || (typeof value === 'number' && value >= 1 && value <= MAX_TIMER),
    'a boolean or a number of milliseconds',
  ],
  signal: [(value) => typeof value?.addEventListener === 'function', 'an AbortSignal'],
  timeout: limited(
    (value) => (value >= 1 && value <= MAX_TIMER) || value === Number.POSITIVE_INFINITY,
    `1 to ${MAX_TIMER} ms, or Infinity`,
  ),
  delay: limited((value) => value >= 0 && value <= MAX_TIMER, `0 to ${MAX_TIMER} ms`),
  factor: limited((value) => value >= 1 && value <= 100, '1 to 100'),
  share: limited((value) => value >= 0 && value <= 1, '0 to 1'),
  count: limited((value) => value >= 1, 'at least 1'),
  /** The number of proxies; true for any number. Or their networks. */
  hops: [
    (value) =>
      typeof value === 'boolean' ||
      (typeof value === 'number' && value >= 0) ||
      TYPES.list[0](value),
    'true, false, a number that is not negative, or networks',
    [
      (value) => (typeof value === 'number' ? Number.isInteger(value) : value?.length !== 0),
      'a whole number, or one network or more',
    ],
  ],
  address: [(value) => net.isIP(value) > 0, 'an IP address'],
  descriptor: [
    (value) => Number.isInteger(value) && value >= 0 && value < 2 ** 31,
    'the number of a descriptor',
  ],
  /** Permissions of a file, as a number or in octal digits. */
  mode: [
    (value) => typeof value === 'number' || (isString(value) && /^[0-7]{3,4}$/.test(value)),
    'octal digits, such as "660", or a number',
    [(value) => isString(value) || (value >= 0 && value <= 0o777), '0 to 0o777'],
  ],
  httpServer: [
    (value) => isHttpServer(value),
    'an HTTP server, such as that of http.createServer()',
  ],
  logger: [
    (value) => LEVELS.some((level) => typeof value?.[level] === 'function'),
    'an object with methods debug, info, warn and error',
  ],
  boolean: [(value) => typeof value === 'boolean', 'true or false'],
  function: [(value) => typeof value === 'function', 'a function'],
  strings: [(value) => Array.isArray(value) && value.every(isString), 'an array of strings'],
  /** One string or several. An empty list would disable a check. */
  list: [
    (value) => isString(value) || TYPES.strings[0](value),
    'a string or an array of strings',
    [
      (value) => value.length > 0 && ![value].flat().includes(''),
      'one or more, none of them empty',
    ],
  ],
  bytes: [(value) => isString(value) || value instanceof Uint8Array, 'a string or a Buffer'],
  authorities: [
    (value) => [value].flat().every(TYPES.bytes[0]),
    'a string, a Buffer or an array of these',
    [(value) => value.length > 0, 'one or more'],
  ],
  proxy: [
    (value) => typeof value === 'boolean' || (isString(value) && parseProxy(value) !== undefined),
    'true, false or a URL: http://host:port or https://host:port',
  ],
  /** Rules of kept topics, each an object of its own: see `checkKeep`. */
  rules: [
    (value) => Array.isArray(value) && value.every(isPlain),
    'an array of objects, such as { topic: "room.>", messages: 100 }',
  ],
  mailboxRules: [
    (value) => Array.isArray(value) && value.every(isPlain),
    'an array of objects, such as { mailbox: "*", messages: 1000 }',
  ],
  /** When the store writes. */
  sync: [
    (value) => value === 'batch' || value === 'never' || typeof value === 'number',
    '"batch", "never" or a number of milliseconds',
  ],
  headers: [
    (value) => isPlain(value) && Object.values(value).every(isString),
    'an object of strings',
  ],
};

/** Returns the options that are set. Throws an error that names an unknown or invalid option. */
function check(options, known, prefix = '') {
  const checked = {};
  for (const [key, value] of Object.entries(options)) {
    const name = prefix + key;
    if (!Object.hasOwn(known, key)) {
      const meant = closest(key, Object.keys(known));
      const advice = meant ? `did you mean "${prefix}${meant}"?` : '';
      throw invalid(
        `unknown option "${name}": ${advice || `expected ${Object.keys(known).join(', ')}`}`,
      );
    }
    if (value !== undefined) {
      checked[key] = checkOne(name, value, known[key]);
    }
  }
  return checked;
}

function checkOne(name, value, type) {
  if (Array.isArray(type)) {
    if (!type.includes(value)) {
      throw wrong(name, type.map((word) => util.inspect(word)).join(' or '), value);
    }
    return value;
  }
  if (typeof type === 'object') {
    if (!isPlain(value)) {
      throw wrong(name, 'an object', value);
    }
    return check(value, type, `${name}.`);
  }
  const [accepts, expected, range] = TYPES[type];
  if (!accepts(value)) {
    throw wrong(name, expected, value);
  }
  if (range && !range[0](value)) {
    throw wrong(name, range[1], value, RangeError);
  }
  return value;
}

/** Options whose values may be secret: messages contain only their type. */
const SECRET = /^(?:jwt|tls|token|nats|proxy|admin\.token)\b/;

function kindOf(value) {
  if (value === null || Array.isArray(value)) {
    return value === null ? 'null' : 'an array';
  }
  return `of type ${typeof value}`;
}

function wrong(name, expected, value, Type = TypeError) {
  const found = SECRET.test(name)
    ? kindOf(value)
    : util.inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY });
  return invalid(`option "${name}" is ${found}, expected ${expected}`, Type);
}

function invalid(message, Type = TypeError) {
  return coded('ERR_WSMB_OPTION', message, Type);
}

/** Checks the option `tls` of a server: `cert` and `key` are required. */
function checkServerTls(tls) {
  const checked = checkOne('tls', tls, SERVER_TLS);
  for (const member of ['cert', 'key']) {
    if (checked[member] === undefined) {
      throw wrong(`tls.${member}`, TYPES.bytes[1], undefined);
    }
  }
  if (checked.ca !== undefined && !checked.requestCert) {
    throw invalid('option "tls.ca" needs option "tls.requestCert"');
  }
  return checked;
}

/** Divides the URL of a NATS server into the URL without credentials, and these. The addon rejects an invalid URL. */
function parseNatsServer(text) {
  let url;
  try {
    url = new URL(text.includes('://') ? text : `nats://${text}`);
  } catch {
    return { server: text };
  }
  const { username, password } = url;
  if (username === '' && password === '') {
    return { server: text };
  }
  url.username = '';
  url.password = '';
  let credentials;
  try {
    credentials = [username, password].map(decodeURIComponent);
  } catch {
    throw wrong('nats.servers', 'user and password with valid URL escapes', text);
  }
  return { server: url.href, credentials };
}

/** Parses `nats.servers`. The credentials in all URLs (`nats://user:password@host`) must be equal. */
function parseNatsServers(servers) {
  const parsed = [servers].flat().map(parseNatsServer);
  const [first, ...others] = parsed.flatMap(({ credentials }) =>
    credentials ? [credentials] : [],
  );
  if (others.some((other) => !util.isDeepStrictEqual(other, first))) {
    throw invalid(
      'option "nats.servers" has several users, expected the same user for all servers',
    );
  }
  const [user, pass] = first ?? [];
  const auth = pass === '' ? { token: user } : { user, pass };
  return { servers: parsed.map(({ server }) => server), auth: first && auth };
}

/** Checks the option `nats`: `servers` is required, and at most one way to authenticate is allowed. */
function checkNats(options) {
  const { tls, ...given } = checkOne('nats', options, { ...NATS, tls: 'any' });
  if (given.servers === undefined) {
    throw wrong('nats.servers', TYPES.list[1], undefined);
  }
  const { servers, auth } = parseNatsServers(given.servers);
  // Options take precedence over the credentials in URLs.
  const others = NATS_AUTH.some((name) => given[name] !== undefined)
    ? given
    : { ...given, ...auth };
  const named = NATS_AUTH.filter((name) => others[name] !== undefined);
  if (named.length > 1) {
    const names = named.map((name) => `"nats.${name}"`).join(' and ');
    throw invalid(`options ${names} exclude each other, expected one of them`);
  }
  if (others.pass !== undefined && others.user === undefined) {
    throw invalid('option "nats.pass" needs option "nats.user"');
  }
  const checked = checkSwitch('nats.tls', tls, CLIENT_TLS);
  // Without `tls`, an address or a server may still require it.
  const trust = { ...trustStore(), system: true };
  return { ...others, servers, tls: checked ? withTrust(checked) : undefined, trust };
}

/** Adds the authorities that this process trusts to the option `tls` of a client, unless it names its own. */
function withTrust(tls) {
  return tls.ca === undefined ? { ...tls, trust: trustStore() } : tls;
}

/** Checks the option `jwt`: exactly one key is required. */
function checkJwt(jwt) {
  const checked = checkOne('jwt', jwt, SERVER.jwt);
  if ((checked.secret === undefined) === (checked.publicKey === undefined)) {
    throw invalid('option "jwt" needs exactly one of "secret" and "publicKey"');
  }
  return checked;
}

function checkServer(options) {
  const { nats, ...given } = object(options);
  const checked = check(given, SERVER);
  if (nats !== undefined) {
    checked.nats = checkNats(nats);
  }
  checked.keep?.forEach((rule, place) => {
    const { topic } = check(rule, KEEP, `keep[${place}].`);
    if (topic === undefined) {
      throw wrong(`keep[${place}].topic`, 'a string', topic);
    }
  });
  checked.mailboxes?.forEach((rule, place) => {
    const { mailbox } = check(rule, MAILBOX, `mailboxes[${place}].`);
    if (mailbox === undefined) {
      throw wrong(`mailboxes[${place}].mailbox`, 'a string', mailbox);
    }
  });
  if (checked.store && !checked.store.path) {
    throw wrong('store.path', 'the path of a folder', checked.store.path);
  }
  const { authenticateTimeout: limit } = checked;
  if (checked.authorize && !checked.authenticate && !checked.jwt) {
    throw invalid('option "authorize" needs option "authenticate" or "jwt"');
  }
  // The addon checks this option only if there is a function `authenticate`.
  if (limit !== undefined && (limit < 1 || limit > MAX_TIMEOUT)) {
    throw wrong('authenticateTimeout', '1 ms to 100 years', limit, RangeError);
  }
  return checked.tls === undefined ? checked : { ...checked, tls: checkServerTls(checked.tls) };
}

/** Checks an option that is true, false, or an object. True becomes an empty object. */
function checkSwitch(name, value, known) {
  if (value === undefined || typeof value === 'boolean') {
    return value === true ? {} : value;
  }
  if (!isPlain(value)) {
    throw wrong(name, 'true, false or an object', value);
  }
  return checkOne(name, value, known);
}

/** Checks the arguments of `handleUpgrade`. */
function checkUpgrade(req, socket, head) {
  const isRequest = Array.isArray(req?.rawHeaders) && isString(req.url);
  if (
    !isRequest ||
    typeof socket?.write !== 'function' ||
    (head && !(head instanceof Uint8Array))
  ) {
    throw invalid('expected the arguments of an event "upgrade": req, socket, head');
  }
}

function checkClient(options) {
  const { tls, reconnect, ...others } = object(options);
  const checked = { ...check(others, CLIENT) };
  const switches = {
    tls: checkSwitch('tls', tls, CLIENT_TLS),
    reconnect: checkSwitch('reconnect', reconnect, RECONNECT),
  };
  for (const [name, value] of Object.entries(switches)) {
    if (value !== undefined) {
      checked[name] = value;
    }
  }
  return checked;
}

/** An optional argument that must be an object. */
function object(options) {
  if (options === undefined || options === null) {
    return {};
  }
  if (typeof options !== 'object') {
    throw invalid(`options is ${String(options)}, expected an object`);
  }
  return options;
}

module.exports = {
  checkServer,
  checkClient,
  checkServerTls,
  checkJwt,
  checkAdminToken: (token) => checkOne('admin.token', token, 'string'),
  checkUpgrade,
  checkUpgradeOptions: (options) => check(object(options), UPGRADE),
  isHttpServer,
  withTrust,
  checkArgument: (name, value) => checkOne(name, value, ARGUMENTS[name]),
  checkDisconnect: (options) => check(options, DISCONNECT),
  checkCallback: (value) => (value == null ? undefined : checkOne('callback', value, 'function')),
  checkClose: (options) => check(object(options), { drain: 'number', delay: 'delay' }),
  serverOptions: SERVER,
  clientOptions: CLIENT,
};
