'use strict';

// The command-line flags of wsbrokerserver, derived from the options of a server: names and types from options.js,
// defaults from the addon. Only the descriptions are written here.

const fs = require('node:fs');
const closest = require('./closest');
const { serverOptions } = require('./options');

/** Descriptions of all options that have a flag. A default in words stands where the addon has none. */
const DESCRIPTIONS = {
  host: ['address to listen on'],
  reusePort: ['share the port with other brokers that have this flag'],
  trustProxy: ['proxies in front; their X-Forwarded-For names the client'],
  proxyProtocol: ['connections begin with a header of the PROXY protocol'],
  health: ['path at which GET is answered with 200'],
  socketMode: ['permissions of the Unix socket, such as 660'],
  threads: ['threads that route messages', 'one per core, at most 4'],
  maxPayload: ['bytes of one message'],
  clientMaxPayload: ["bytes of one message to the server's own client"],
  maxBackpressure: ['bytes queued for one connection'],
  slowConsumer: ['policy for a connection whose queue is full'],
  slowConsumerTimeout: ['ms for which a slow connection may delay its senders'],
  maxMemory: ['bytes of all buffers and tables', 'a quarter of the memory'],
  maxConnections: ['simultaneous connections', '80 % of the file limit'],
  maxIdLength: ['bytes of an id'],
  maxDest: ['receivers of one message'],
  maxFanoutBytes: ['bytes of a message times its receivers'],
  maxSubscriptions: ['subscriptions of a connection'],
  maxPatterns: ['distinct patterns with wildcards, of all connections'],
  maxPresenceInfo: ['bytes that a member of a topic tells of itself'],
  maxPresenceNames: ['members of a topic that are named'],
  presenceTimeout: ['time after which a lost connection counts as gone'],
  sessionTimeout: ['ms for which a session outlives a lost connection; 0: no sessions'],
  maxSessionBuffer: ['bytes that a session keeps for its client'],
  allowWait: ['let slow subscribers delay publishers, if they ask for it'],
  maxFragments: ['fragments of one message'],
  maxControlFrames: ['pings and pongs of one connection per second'],
  maxProtocolErrors: ['rejected actions of one connection per minute'],
  keep: ['topics whose messages are kept, as JSON: [{"topic":"room.>","messages":100}]', 'none'],
  mailboxes: [
    'ids whose messages wait for them, as JSON: [{"mailbox":"*","messages":1000}]',
    'none',
  ],
  'store.path': ['folder of the messages of rules with "disk":true', 'no store'],
  'store.sync': ['when messages are written: batch, never, or ms', 'batch'],
  'store.maxBytes': ['bytes of all messages on the disk'],
  'rateLimit.messages': ['messages of one connection per second', 'no limit'],
  'rateLimit.bytes': ['bytes of one connection per second', 'no limit'],
  maxHeaderSize: ['bytes of the HTTP request head'],
  handshakeTimeout: ['ms for the handshake'],
  registerTimeout: ['ms in which a connection must register an id'],
  pingInterval: ['ms of silence before a ping; 0: no pings'],
  pingTimeout: ['ms of silence after a ping until the connection is closed'],
  closeTimeout: ['ms for the closing handshake of a connection'],
  ackTimeout: ['ms in which a request may be answered'],
  maxPendingAcks: ['pending deliveries of the requests of one connection'],
  'jwt.secret': ['secret of the tokens; clients then need a token to register'],
  'jwt.publicKey': ['public key (PEM) of the tokens, instead of a secret'],
  'jwt.algorithms': ['accepted algorithm', 'those of the key'],
  'jwt.issuer': ['accepted issuer, claim iss', 'any'],
  'jwt.audience': ['accepted audience, claim aud', 'any'],
  'jwt.subject': ['claim sub is the id, or a pattern of ids', 'exact'],
  'jwt.leeway': ['ms by which clocks may differ'],
  'jwt.requireExp': ['require tokens with an expiry, claim exp'],
  allowedOrigins: ['origin from which pages may connect', 'any'],
  'tls.cert': ['certificate (PEM): accept TLS connections only'],
  'tls.key': ['private key of the certificate (PEM)'],
  'tls.ca': ['authorities that sign the certificates of clients (PEM)'],
  'tls.minVersion': ['oldest accepted version of TLS', 'TLSv1.2'],
  'tls.requestCert': ['require a certificate of each client', 'no'],
  'nats.servers': ['URL of a NATS server, by which brokers form a cluster', 'no cluster'],
  'nats.namespace': ['brokers of one namespace form a cluster'],
  'nats.name': ['name of this broker in the cluster', 'random'],
  'nats.token': ['NATS token: the first line of this file'],
  'nats.nkey': ['seed of a NATS NKey: the first line of this file'],
  'nats.creds': ['NATS credentials file'],
  'nats.tls': ['require TLS to NATS', 'no'],
  'nats.tls.ca': [
    'authorities that sign the certificates of NATS (PEM); implies TLS',
    "Mozilla's list",
  ],
  'nats.tls.cert': ['certificate of this broker for NATS (PEM); implies TLS'],
  'nats.tls.key': ['private key of this certificate (PEM)'],
  'admin.port': ['port or Unix socket of the admin endpoint (metrics, dashboard)', 'no endpoint'],
  'admin.host': ['address of the admin endpoint'],
  'admin.token': ['token of the admin endpoint: the first line of this file', 'no token'],
  'nats.required': ['exit if NATS cannot be reached at the start'],
};

/** Flags with another name than their option. */
const NAMES = { 'nats.servers': 'nats', 'admin.port': 'admin' };

/** Flags that take another type of value than their option. */
const TYPES = {
  'nats.token': 'line',
  'nats.nkey': 'line',
  'nats.creds': 'file',
  'nats.tls': 'boolean',
  'admin.port': 'string',
  'admin.token': 'line',
};

/** Reads a file. The error does not have the text: somebody may have given a secret in place of its file. */
function readFile(file) {
  try {
    return fs.readFileSync(file);
  } catch ({ code }) {
    throw new Error(`is no file that can be read (${code})`);
  }
}

function readRules(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`is '${text}', expected an array of rules as JSON`);
  }
}

/** By the type of an option, the placeholder of a flag's value, and the function that reads the value. */
const VALUES = {
  number: [
    'number',
    (text) => {
      if (!/^\d+$/.test(text)) {
        throw new Error(`is '${text}', expected a number`);
      }
      return Number(text);
    },
  ],
  boolean: [
    'yes|no',
    (text) => {
      if (text !== 'yes' && text !== 'no') {
        throw new Error(`is '${text}', expected yes or no`);
      }
      return text === 'yes';
    },
  ],
  mode: ['octal', (digits) => digits],
  rules: ['json', readRules],
  mailboxRules: ['json', readRules],
  sync: ['batch|never|number', (text) => (/^\d+$/.test(text) ? Number(text) : text)],
  hops: [
    'number|yes|no|networks',
    (text) => {
      if (/^\d+$/.test(text)) return Number(text);
      // Networks have a dot or a colon, but for three names.
      if (/[.:]|^(?:loopback|linklocal|uniquelocal)\b/.test(text)) return text.split(/,\s*/);
      if (text !== 'yes' && text !== 'no') {
        throw new Error(`is '${text}', expected a number, yes, no or networks`);
      }
      return text === 'yes';
    },
  ],
  bytes: ['file', readFile],
  line: ['file', (file) => readFile(file).toString().split(/\r?\n/)[0]],
  file: ['file', (file) => file],
  string: ['text', (text) => text],
  // Flags of these types may be repeated.
  strings: ['text', (texts) => texts],
  list: ['text', (texts) => texts],
};

const isGroup = (type) => typeof type === 'object' && !Array.isArray(type);

/** The options that have a flag: `[option, type]`, with `group.member` for a member of a group. */
function optionsWithFlag(known = serverOptions, prefix = '') {
  return Object.entries(known).flatMap(([name, type]) => {
    const option = prefix + name;
    const own = option in DESCRIPTIONS ? [[option, TYPES[option] ?? flagType(option, type)]] : [];
    return isGroup(type) ? [...own, ...optionsWithFlag(type, `${option}.`)] : own;
  });
}

/** The server reads the files of TLS itself, at the start and whenever they are renewed. */
function flagType(option, type) {
  return /(?:^|\.)tls\./.test(option) && ['bytes', 'authorities'].includes(type) ? 'file' : type;
}

function nameOf(option) {
  const kebab = option.replace(/[A-Z.]/g, (c) => `-${c === '.' ? '' : c.toLowerCase()}`);
  return NAMES[option] ?? kebab;
}

/** The flags: name, option, placeholder of the value, whether it may be repeated, and `read(text)`. */
const FLAGS = optionsWithFlag().map(([option, type]) => {
  const [placeholder, read] = VALUES[type] ?? [type.join('|'), (word) => word];
  const isRepeatable = type === 'strings' || type === 'list';
  return { name: nameOf(option), option, placeholder, isRepeatable, read };
});

/** A function that reads a value that must be one of these words. */
function oneOf(words) {
  return (text) => {
    if (!words.includes(text)) {
      throw new Error(`is '${text}', expected ${words.join(' or ')}`);
    }
    return text;
  };
}

/** The value of a flag. Throws an error that names the flag. */
function readFlag(name, read, text) {
  try {
    return read(text);
  } catch (error) {
    throw new Error(`--${name} ${error.message}`);
  }
}

/** The options of a server for the values of flags, by name. */
function readFlags(values) {
  const options = {};
  for (const { name, option, read } of FLAGS) {
    if (values[name] !== undefined) {
      const value = readFlag(name, read, values[name]);
      const groups = option.split('.');
      const member = groups.pop();
      const target = groups.reduce((group, each) => {
        // A group that can also be switched on or off: its members imply it.
        if (group[each] === false) {
          throw new Error(`--${name} needs --${nameOf([...groups].join('.'))} yes`);
        }
        group[each] = isGroup(group[each]) ? group[each] : {};
        return group[each];
      }, options);
      target[member] = value;
    }
  }
  return options;
}

/** The message for an error of `parseArgs` about an unknown flag; undefined for any other error. */
function unknownFlag(error) {
  const [, flag] = /^Unknown option '(-[^']*)'/.exec(error.message) ?? [];
  if (flag === undefined) {
    return undefined;
  }
  const own = ['drain', 'drain-delay', 'log', 'log-level', 'help', 'version'];
  const flags = [...FLAGS.map(({ name }) => name), ...own];
  const meant = closest(
    flag,
    flags.map((name) => `--${name}`),
  );
  return `unknown option '${flag}'${meant ? `, did you mean ${meant}?` : ''} (see --help)`;
}

const MIB = 2 ** 20;

function format(value) {
  if (typeof value === 'boolean') {
    return value ? 'yes' : 'no';
  }
  if (typeof value === 'number' && value > 0 && value % MIB === 0) {
    return value % (1024 * MIB) === 0 ? `${value / MIB / 1024} GiB` : `${value / MIB} MiB`;
  }
  return String(value);
}

/** The default of an option as text, or undefined if it has none. */
function defaultText(option, words) {
  if (words !== undefined) {
    return words;
  }
  // Required here: the addon is not needed to read flags.
  const { NativeServer } = require('./native');
  const [group, member] = option.split('.');
  const [value, authenticated] = [false, true].map((authenticates) => {
    const defaults = NativeServer.defaults(authenticates);
    return member === undefined ? defaults[group] : defaults[group]?.[member];
  });
  if (group === 'jwt' || value === authenticated) {
    return authenticated === undefined ? undefined : format(authenticated);
  }
  return `${value === 0 ? 'no limit' : format(value)}; ${format(authenticated)} with tokens`;
}

/** For each flag the lines of `--help`: the flag with its value, and the description. */
function helpLines() {
  return FLAGS.map(({ name, option, placeholder, isRepeatable }) => {
    const [description, words] = DESCRIPTIONS[option];
    const repeated = isRepeatable ? '; may be repeated' : '';
    const text = defaultText(option, words);
    const suffix = text === undefined ? '' : ` (${text})`;
    return [`--${name} <${placeholder}>`, `${description}${repeated}${suffix}`];
  });
}

module.exports = { FLAGS, VALUES, oneOf, readFlag, readFlags, unknownFlag, helpLines };
