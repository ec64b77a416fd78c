#!/usr/bin/env node
'use strict';

// The command line of the broker: parse, start, print, stop on signals.

const fs = require('node:fs');
const net = require('node:net');
const { parseArgs } = require('node:util');
const { version } = require('../package.json');

/** How long conversations under way may go on after SIGTERM. */
const DRAIN = 5000;

/** The exit codes that a shell gives to a process that a signal has ended. */
const EXIT = { SIGINT: 130, SIGTERM: 143 };

/** The addresses that are all addresses of the machine, however they are written. */
const ALL = new net.BlockList();
ALL.addAddress('0.0.0.0', 'ipv4');
ALL.addAddress('::', 'ipv6');

/** What would end a line, forge one, or change how it is shown; a quote begins what was escaped. */
const UNPRINTABLE = /^"|[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u;
/** The same, where JSON leaves it as it is. */
const UNESCAPED = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;

/**
 * The flags that are options of the server: their names are the options' in kebab case, those of
 * a group, such as `rateLimit`, begin with its name. What they take, and what they mean.
 */
const OPTIONS = {
  host: ['address', 'address to listen on (0.0.0.0)'],
  threads: ['number', 'threads that route (one per core, at most 4)'],
  'max-payload': ['number', 'bytes of one message (100 MiB)'],
  'client-max-payload': ['number', 'bytes of one message to the server itself (1 MiB)'],
  'max-backpressure': ['number', 'bytes that may wait for one connection (16 MiB)'],
  'slow-consumer': ['policy', 'one that does not read: pushback, close or drop (pushback)'],
  'slow-consumer-timeout': ['number', 'ms a connection may hold up its senders (5000)'],
  'max-memory': ['number', 'bytes of all buffers and tables (a quarter of the memory)'],
  'max-connections': ['number', 'connections at one time (80 % of the file limit)'],
  'max-id-length': ['number', 'bytes of an id (8192)'],
  'max-dest': ['number', 'receivers of one message (65536)'],
  'max-fanout-bytes': ['number', 'bytes of a message times its receivers (1 GiB)'],
  'max-fragments': ['number', 'fragments of one message (16384)'],
  'max-control-frames': ['number', 'pings and pongs of one connection in a second (100)'],
  'max-protocol-errors': ['number', 'refused actions in a minute (no limit; 100 with tokens)'],
  'rate-limit-messages': ['number', 'messages of one connection in a second (no limit)'],
  'rate-limit-bytes': ['number', 'bytes of one connection in a second (no limit)'],
  'max-header-size': ['number', 'bytes of the head of a handshake (16384)'],
  'handshake-timeout': ['number', 'ms a handshake may take (10000)'],
  'register-timeout': ['number', 'ms without an id (no limit; 10000 with tokens)'],
  'ping-interval': ['number', 'ms of silence before a ping (25000; 0: never)'],
  'ping-timeout': ['number', 'ms of silence after it before the end (20000)'],
  'close-timeout': ['number', 'ms a closing connection may take (5000)'],
  'ack-timeout': ['number', 'ms a request may be answered (3600000)'],
  'max-pending-acks': ['number', 'deliveries of one connection that await an answer (65536)'],
  'allowed-origins': ['origin...', 'a page that may connect; may be repeated (any)'],
  'jwt-secret': ['file', 'the secret that signs tokens: only who has one may register'],
  'jwt-public-key': ['file', 'or the public key that verifies them, in PEM'],
  'jwt-algorithms': ['name...', 'an algorithm; may be repeated (as the key goes)'],
  'jwt-issuer': ['name...', 'who may have issued them; may be repeated (anybody)'],
  'jwt-audience': ['name...', 'for whom they may be; may be repeated (anybody)'],
  'jwt-subject': ['kind', 'the claim sub is the id, exact, or a pattern of ids (exact)'],
  'jwt-leeway': ['number', 'ms that clocks may differ (0)'],
  'jwt-require-exp': ['yes|no', 'whether tokens must have an end (yes)'],
  'tls-cert': ['file', 'speak TLS with this certificate (PEM), and nothing else'],
  'tls-key': ['file', 'its key (PEM)'],
  'tls-ca': ['file', 'authorities that may sign the certificate of a client (PEM)'],
  'tls-min-version': ['version', 'oldest version of TLS that is spoken (TLSv1.2)'],
  'tls-request-cert': ['yes|no', 'let in only clients with a certificate (no)'],
  nats: ['address...', 'be one with the brokers of this NATS server; may be repeated (alone)'],
  'nats-namespace': ['name', 'brokers of one namespace are one (default)'],
  'nats-name': ['name', 'the name of this broker for the others (a random one)'],
  'nats-creds': ['path', 'a file of NATS credentials'],
  'nats-nkey': ['line', 'or the seed of an NKey, the first line of this file'],
  'nats-token': ['line', 'or a token, the first line of this file'],
  'nats-tls': ['yes|no', 'speak TLS with NATS, even if it does not ask for that (no)'],
  'nats-required': ['yes|no', 'end when NATS cannot be reached at the start (no)'],
};

/** Options that are objects. */
const GROUPS = ['rate-limit', 'jwt', 'tls', 'nats'];
/** Where a flag is another member than its name says: of these. */
const MEMBERS = { nats: ['nats', 'servers'] };

/** How the text of a flag becomes a value. */
const VALUES = {
  number(value) {
    if (!/^\d+$/.test(value)) {
      throw new Error(`is '${value}', expected a number`);
    }
    return Number(value);
  },
  'yes|no'(value) {
    if (value !== 'yes' && value !== 'no') {
      throw new Error(`is '${value}', expected yes or no`);
    }
    return value === 'yes';
  },
  file: (value) => fs.readFileSync(value),
  line: (value) => fs.readFileSync(value, 'utf8').split(/\r?\n/)[0],
};

const FLAGS = {
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'v' },
  drain: { type: 'string', default: `${DRAIN}` },
};
for (const [name, [takes]] of Object.entries(OPTIONS)) {
  FLAGS[name] = { type: 'string', multiple: takes.endsWith('...') };
}

function help() {
  const line = (flag, text) => `  ${flag.padEnd(34)}${text}`;
  return [
    'Usage: wsbrokerserver <port> [path] [options]',
    '',
    'Starts a broker at ws://<host>:<port>/<path> and prints who registers (+) and leaves (-).',
    'A port that is no number is the name of a Unix socket.',
    '',
    'Options:',
    ...Object.entries(OPTIONS).map(([name, [takes, text]]) =>
      line(`--${name} <${takes.replace('...', '')}>`, text),
    ),
    line('--drain <number>', `ms for conversations under way at SIGTERM (${DRAIN})`),
    line('-h, --help', 'print this and exit'),
    line('-v, --version', 'print the version and exit'),
    '',
    'SIGHUP reads the files of TLS again, for the connections to come.',
  ].join('\n');
}

/** One line on stderr; 2 for a wrong command line, 1 for what the system refused. */
function fail(message, code) {
  process.stderr.write(`wsbrokerserver: ${message}\n`);
  process.exitCode = code;
}

/** The value of a flag, or an error that names it. */
function read(name, takes, value) {
  try {
    return VALUES[takes]?.(value) ?? value;
  } catch (error) {
    throw new Error(`--${name} ${error.message}`);
  }
}

const camel = (name) => name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());

/** The options in `flags`. */
function serverOptions(flags) {
  const options = {};
  for (const [name, text] of Object.entries(flags)) {
    // Those of TLS are read where they are used, and again when they are renewed.
    const takes =
      name.startsWith('tls-') && OPTIONS[name][0] === 'file' ? 'path' : OPTIONS[name][0];
    const value = read(name, takes, text);
    const prefix = GROUPS.find((start) => name.startsWith(`${start}-`));
    const [group, member] = MEMBERS[name] ?? [prefix, prefix && name.slice(prefix.length + 1)];
    if (group === undefined) {
      options[camel(name)] = value;
    } else {
      options[camel(group)] = { ...options[camel(group)], [camel(member)]: value };
    }
  }
  return options;
}

function start(port, path, drain, options) {
  const WSMsgBroker = require('..');
  let server;
  try {
    server = new WSMsgBroker.Server({ port, path, ...options });
  } catch (error) {
    fail(error.message, 2);
    return;
  }
  const { options: shown } = server.wss;
  server.on('listening', () => {
    const address = server.address();
    // Port 0 takes a free one: that is the one to tell.
    const where = address.port === undefined ? shown.port : address.port;
    // Without TLS, the line of version 1.
    const scheme = options.tls ? 'wss://' : '';
    console.log(`WSMsgBroker server listening on ${scheme}${shown.host}:${where}${shown.path}`);
    if (options.jwt === undefined && isAll(address)) {
      const message = 'anybody who reaches this machine may register (see --host and --jwt-secret)';
      process.stderr.write(`wsbrokerserver: ${message}\n`);
    }
  });
  server.on('registered', (id) => console.log(` + ${printable(id)}`));
  server.on('unregistered', (id) => console.log(` - ${printable(id)}`));
  server.on('cluster', (state, reason) => {
    const why = reason === null ? '' : ` (${reason})`;
    process.stderr.write(`wsbrokerserver: cluster ${state}${printable(why)}\n`);
  });
  server.on('error', (error) => {
    if (error.syscall !== undefined || error.code === 'ERR_WSMB_CLUSTER') {
      fail(error.message, 1);
    }
  });
  if (options.tls) {
    process.on('SIGHUP', () => renew(server, options.tls));
  }
  stopOnSignals(server, drain);
}

/** The first SIGTERM drains, the first SIGINT closes; a second of either ends a drain, a third all. */
function stopOnSignals(server, drain) {
  let signals = 0;
  const stop = (signal) => {
    signals += 1;
    if (signals > 2) {
      process.exit(EXIT[signal]);
    }
    server.close(signals === 1 && signal === 'SIGTERM' ? { drain } : undefined);
  };
  for (const signal of Object.keys(EXIT)) {
    process.on(signal, stop);
  }
}

/** True for an address that is all addresses of the machine; a Unix socket is none. */
function isAll({ address, family }) {
  return family !== undefined && ALL.check(address, family.toLowerCase());
}

/** An id as it is, or as JSON in one line. */
function printable(id) {
  if (!UNPRINTABLE.test(id)) {
    return id;
  }
  const code = (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(id).replace(UNESCAPED, code);
}

/** Reads the files of TLS again. What cannot be used is told, and all stays as it was. */
function renew(server, tls) {
  try {
    server.setTls(tls);
  } catch (error) {
    process.stderr.write(`wsbrokerserver: ${error.message}\n`);
  }
}

function main(argv) {
  try {
    const { values, positionals } = parseArgs({
      args: argv,
      options: FLAGS,
      allowPositionals: true,
    });
    const { help: wantsHelp, version: wantsVersion, drain, ...flags } = values;
    if (wantsHelp) {
      console.log(help());
    } else if (wantsVersion) {
      console.log(version);
    } else if (positionals.length === 0 || positionals.length > 2) {
      fail('expected <port> [path]; see --help', 2);
    } else {
      const [port, path] = positionals;
      start(port, path, read('drain', 'number', drain), serverOptions(flags));
    }
  } catch (error) {
    fail(error.message.split('\n')[0], 2);
  }
}

main(process.argv.slice(2));
