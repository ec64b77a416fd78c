'use strict';

// The names and types of all options. Their defaults and ranges are the core's (src/options.rs).

const util = require('node:util');
const { coded } = require('./errors');

/** The longest that a timer may run, ms. */
const LONGEST = 2 ** 31 - 1;
/** 100 years in milliseconds: the longest that anything may take. */
const CENTURY = 100 * 365 * 86_400_000;

const VERSIONS = ['TLSv1.2', 'TLSv1.3'];

/** Certificates and keys: PEM, or the path of a file with it. */
const SERVER_TLS = {
  cert: 'bytes',
  key: 'bytes',
  ca: 'bytes',
  minVersion: VERSIONS,
  requestCert: 'boolean',
};

const CLIENT_TLS = {
  ca: 'bytes',
  servername: 'string',
  cert: 'bytes',
  key: 'bytes',
  rejectUnauthorized: 'boolean',
  minVersion: VERSIONS,
};

/** NATS, by which brokers are one. */
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

/** The ways to say who we are: one of them. */
const NATS_AUTH = ['user', 'token', 'nkey', 'creds'];

const SERVER = {
  port: 'any',
  id: 'string',
  host: 'string',
  path: 'any',
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
  maxFragments: 'number',
  maxControlFrames: 'number',
  maxProtocolErrors: 'number',
  rateLimit: { messages: 'number', bytes: 'number' },
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
  allowedOrigins: 'strings',
  tls: SERVER_TLS,
  nats: NATS,
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
};

/** What methods of a server take, checked as options are. */
const ARGUMENTS = { id: 'string', timeout: 'timeout' };
/** How a connection is closed. */
const DISCONNECT = { code: 'number', reason: 'string', principal: 'boolean' };

const isString = (value) => typeof value === 'string';
const isPlain = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** A number within limits. */
const limited = (accepts, expected) => [
  (value) => typeof value === 'number',
  'a number',
  [accepts, expected],
];

/** What each type accepts, and how it is called; what of that is in range, and how that is called. */
const TYPES = {
  any: [() => true],
  number: [
    (value) => typeof value === 'number' && value >= 0,
    'a number that is not negative',
    // Half a millisecond or half a connection would be none: off, for some.
    [Number.isInteger, 'a whole number'],
  ],
  string: [isString, 'a string'],
  token: [
    (value) => isString(value) || typeof value === 'function',
    'a string or a function that returns one',
  ],
  signal: [(value) => typeof value?.addEventListener === 'function', 'an AbortSignal'],
  timeout: limited(
    (value) => (value >= 1 && value <= LONGEST) || value === Number.POSITIVE_INFINITY,
    `1 to ${LONGEST} ms, or Infinity`,
  ),
  delay: limited((value) => value >= 0 && value <= LONGEST, `0 to ${LONGEST} ms`),
  factor: limited((value) => value >= 1 && value <= 100, '1 to 100'),
  share: limited((value) => value >= 0 && value <= 1, '0 to 1'),
  count: limited((value) => value >= 1, 'at least 1'),
  boolean: [(value) => typeof value === 'boolean', 'true or false'],
  function: [(value) => typeof value === 'function', 'a function'],
  strings: [(value) => Array.isArray(value) && value.every(isString), 'an array of strings'],
  /** One string, or several. Where none is named, nothing would be checked. */
  list: [
    (value) => isString(value) || TYPES.strings[0](value),
    'a string or an array of strings',
    [
      (value) => value.length > 0 && ![value].flat().includes(''),
      'one or more, none of them empty',
    ],
  ],
  bytes: [(value) => isString(value) || value instanceof Uint8Array, 'a string or a Buffer'],
  headers: [
    (value) => isPlain(value) && Object.values(value).every(isString),
    'an object of strings',
  ],
};

/** The options that are set; a TypeError names one that is unknown or of a wrong type. */
function check(options, known, prefix = '') {
  const checked = {};
  for (const [key, value] of Object.entries(options)) {
    const name = prefix + key;
    if (!Object.hasOwn(known, key)) {
      throw coded('ERR_WSMB_OPTION', `unknown option "${name}"`, TypeError);
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

/** What belongs to these is shown in no message. */
const SECRET = /^(?:jwt|tls|token|nats)\b/;

function kind(value) {
  if (value === null || Array.isArray(value)) {
    return value === null ? 'null' : 'an array';
  }
  return `of type ${typeof value}`;
}

function wrong(name, expected, value, Type = TypeError) {
  const found = SECRET.test(name)
    ? kind(value)
    : util.inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY });
  return coded('ERR_WSMB_OPTION', `option "${name}" is ${found}, expected ${expected}`, Type);
}

/** A server's certificate, and its key, must be there; authorities are for clients that it asks. */
function checkServerTls(tls) {
  const checked = checkOne('tls', tls, SERVER_TLS);
  for (const member of ['cert', 'key']) {
    if (checked[member] === undefined) {
      throw wrong(`tls.${member}`, TYPES.bytes[1], undefined);
    }
  }
  if (checked.ca !== undefined && !checked.requestCert) {
    const message = 'option "tls.ca" is of no use unless "tls.requestCert" is true';
    throw coded('ERR_WSMB_OPTION', message, TypeError);
  }
  return checked;
}

/** An address of NATS without who we are, and that. What is no address is for the core to refuse. */
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
  let who;
  try {
    who = [username, password].map(decodeURIComponent);
  } catch {
    throw wrong('nats.servers', 'user and password as in a URL', text);
  }
  return { server: url.href, who };
}

/** Where NATS is, and who we are there by what an address says, as `nats://user:password@host`. */
function parseNatsServers(servers) {
  const parsed = [servers].flat().map(parseNatsServer);
  const [first, ...others] = parsed.flatMap(({ who }) => (who === undefined ? [] : [who]));
  if (others.some((other) => !util.isDeepStrictEqual(other, first))) {
    const message = 'option "nats.servers" names several users, expected one for all';
    throw coded('ERR_WSMB_OPTION', message, TypeError);
  }
  const who = first && (first[1] === '' ? { token: first[0] } : { user: first[0], pass: first[1] });
  return { servers: parsed.map(({ server }) => server), who };
}

/** NATS must be somewhere, and know us by one name at most. */
function checkNats(options) {
  const { tls, ...given } = checkOne('nats', options, { ...NATS, tls: 'any' });
  if (given.servers === undefined) {
    throw wrong('nats.servers', TYPES.list[1], undefined);
  }
  const { servers, who } = parseNatsServers(given.servers);
  // What is said apart counts.
  const others = NATS_AUTH.some((name) => given[name] !== undefined) ? given : { ...given, ...who };
  const named = NATS_AUTH.filter((name) => others[name] !== undefined);
  if (named.length > 1) {
    const names = named.map((name) => `"nats.${name}"`).join(' and ');
    throw coded('ERR_WSMB_OPTION', `options ${names} exclude each other`, TypeError);
  }
  if (others.pass !== undefined && others.user === undefined) {
    throw coded('ERR_WSMB_OPTION', 'option "nats.pass" needs "nats.user"', TypeError);
  }
  const checked = checkSwitch('nats.tls', tls, CLIENT_TLS);
  return { ...others, servers, tls: checked || undefined };
}

function checkServer(options) {
  const { nats, ...given } = object(options);
  const checked = check(given, SERVER);
  if (nats !== undefined) {
    checked.nats = checkNats(nats);
  }
  const { authenticateTimeout: limit } = checked;
  // The core knows it only where it asks.
  if (limit !== undefined && (limit < 1 || limit > CENTURY)) {
    throw wrong('authenticateTimeout', '1 ms to 100 years', limit, RangeError);
  }
  return checked.tls === undefined ? checked : { ...checked, tls: checkServerTls(checked.tls) };
}

/** Where true is the same as no options of it, and false is without: not null. */
function checkSwitch(name, value, known) {
  if (value === undefined || typeof value === 'boolean') {
    return value === true ? {} : value;
  }
  if (!isPlain(value)) {
    throw wrong(name, 'true, false or an object', value);
  }
  return checkOne(name, value, known);
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

/** An argument that must be an object if it is there. */
function object(options) {
  if (options === undefined || options === null) {
    return {};
  }
  if (typeof options !== 'object') {
    throw coded('ERR_WSMB_OPTION', `options is ${String(options)}, expected an object`, TypeError);
  }
  return options;
}

module.exports = {
  checkServer,
  checkClient,
  checkServerTls,
  checkArgument: (name, value) => checkOne(name, value, ARGUMENTS[name]),
  checkDisconnect: (options) => check(options, DISCONNECT),
  checkClose: (options) => check(object(options), { drain: 'number' }),
  serverOptions: SERVER,
  clientOptions: CLIENT,
};
