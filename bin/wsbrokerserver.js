#!/usr/bin/env node
'use strict';

// The command line of the broker: parse, start, print, stop on signals.

const { parseArgs } = require('node:util');
const { version } = require('../package.json');

/** Flags with a number, and what they mean; their names are the options' in kebab case. */
const LIMITS = {
  threads: 'threads that route (default: one per core, at most 4)',
  'max-payload': 'bytes of one message (100 MiB)',
  'max-backpressure': 'bytes that may wait for one connection (16 MiB)',
  'slow-consumer-timeout': 'ms a connection may hold up its senders (5000)',
  'max-memory': 'bytes of all buffers and tables (a quarter of the memory)',
  'max-connections': 'connections at one time (80 % of the file limit)',
  'max-id-length': 'bytes of an id (8192)',
  'max-dest': 'receivers of one message (65536)',
  'max-fanout-bytes': 'bytes of a message times its receivers (1 GiB)',
  'max-fragments': 'fragments of one message (16384)',
  'max-control-frames': 'pings and pongs of one connection in a second (100)',
  'max-protocol-errors': 'refused actions of one connection in a minute (0: no limit)',
  'rate-limit-messages': 'messages of one connection in a second (no limit)',
  'rate-limit-bytes': 'bytes of one connection in a second (no limit)',
  'max-header-size': 'bytes of the head of a handshake (16384)',
  'handshake-timeout': 'ms a handshake may take (10000)',
  'register-timeout': 'ms until a connection must have an id (0: no limit)',
  'ping-interval': 'ms of silence before a ping (25000; 0: never)',
  'ping-timeout': 'ms of silence after it before the end (20000)',
  'close-timeout': 'ms a closing connection may take (5000)',
  'ack-timeout': 'ms a request may be answered (3600000)',
  'max-pending-acks': 'deliveries of one connection that await an answer (65536)',
};

/** Options that are objects: their members are flags of their own. */
const GROUPS = ['rate-limit'];
/** How long conversations under way may go on after SIGTERM. */
const DRAIN = 5000;

const FLAGS = {
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'v' },
  host: { type: 'string' },
  'slow-consumer': { type: 'string' },
  'allowed-origin': { type: 'string', multiple: true },
  drain: { type: 'string' },
  ...Object.fromEntries(Object.keys(LIMITS).map((name) => [name, { type: 'string' }])),
};

function help() {
  const line = (flag, text) => `  ${flag.padEnd(34)}${text}`;
  return [
    'Usage: wsbrokerserver <port> [path] [options]',
    '',
    'Starts a broker at ws://<host>:<port>/<path> and prints who registers (+) and leaves (-).',
    'A port that is no number is the name of a Unix socket.',
    '',
    'Options:',
    line('--host <address>', 'address to listen on (0.0.0.0)'),
    line('--slow-consumer <policy>', 'one that does not read: pushback (default), close or drop'),
    line('--allowed-origin <origin>', 'a page that may connect; may be repeated (any)'),
    line('--drain <number>', 'ms for open conversations at SIGTERM (5000)'),
    ...Object.entries(LIMITS).map(([name, text]) => line(`--${name} <number>`, text)),
    line('-h, --help', 'print this and exit'),
    line('-v, --version', 'print the version and exit'),
  ].join('\n');
}

/** One line on stderr; 2 for a wrong command line, 1 for what the system refused. */
function fail(message, code) {
  process.stderr.write(`wsbrokerserver: ${message}\n`);
  process.exitCode = code;
}

/** The number of a flag, or an error that names it. */
function number(name, value) {
  if (!/^\d+$/.test(value)) {
    throw new Error(`--${name} is '${value}', expected a number`);
  }
  return Number(value);
}

/** The options in `values`; those of a group, such as `--rate-limit-bytes`, are one object. */
function serverOptions({ 'allowed-origin': allowedOrigins, ...values }) {
  const options = { allowedOrigins };
  for (const [name, value] of Object.entries(values)) {
    const checked = Object.hasOwn(LIMITS, name) ? number(name, value) : value;
    const group = GROUPS.find((prefix) => name.startsWith(`${prefix}-`));
    if (group === undefined) {
      options[camel(name)] = checked;
    } else {
      const member = camel(name.slice(group.length + 1));
      options[camel(group)] = { ...options[camel(group)], [member]: checked };
    }
  }
  return options;
}

const camel = (name) => name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());

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
    console.log(`WSMsgBroker server listening on ${shown.host}:${where}${shown.path}`);
  });
  server.on('registered', (id) => console.log(` + ${id}`));
  server.on('unregistered', (id) => console.log(` - ${id}`));
  server.on('error', (error) => {
    if (error.syscall !== undefined) {
      fail(error.message, 1);
    }
  });
  // Once: a second signal ends the process at once, as usual.
  process.once('SIGINT', () => server.close());
  process.once('SIGTERM', () => server.close({ drain }));
}

function main(argv) {
  let parsed;
  try {
    parsed = parseArgs({ args: argv, options: FLAGS, allowPositionals: true });
    const { values, positionals } = parsed;
    const { help: wantsHelp, version: wantsVersion, drain = `${DRAIN}`, ...flags } = values;
    if (wantsHelp) {
      console.log(help());
    } else if (wantsVersion) {
      console.log(version);
    } else if (positionals.length === 0 || positionals.length > 2) {
      fail('expected <port> [path]; see --help', 2);
    } else {
      start(positionals[0], positionals[1], number('drain', drain), serverOptions(flags));
    }
  } catch (error) {
    fail(error.message.split('\n')[0], 2);
  }
}

main(process.argv.slice(2));
