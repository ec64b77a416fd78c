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
  'max-connections': 'connections at one time (80 % of the file limit)',
  'max-id-length': 'bytes of an id (8192)',
  'max-dest': 'receivers of one message (65536)',
  'max-header-size': 'bytes of the head of a handshake (16384)',
  'handshake-timeout': 'ms a handshake may take (10000)',
  'close-timeout': 'ms a closing connection may take (5000)',
  'ack-timeout': 'ms a request may be answered (3600000)',
  'max-pending-acks': 'deliveries of one connection that await an answer (65536)',
};

const FLAGS = {
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'v' },
  host: { type: 'string' },
  'slow-consumer': { type: 'string' },
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
    line('--slow-consumer <policy>', 'what happens to one that does not read (pushback)'),
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

/** The options in `values`, or an error that names the flag. */
function serverOptions(values) {
  const options = {};
  for (const [name, value] of Object.entries(values)) {
    const option = name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());
    if (!Object.hasOwn(LIMITS, name)) {
      options[option] = value;
    } else if (/^\d+$/.test(value)) {
      options[option] = Number(value);
    } else {
      throw new Error(`--${name} is '${value}', expected a number`);
    }
  }
  return options;
}

function start(port, path, options) {
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
  for (const signal of ['SIGINT', 'SIGTERM']) {
    // Once: a second signal ends the process at once, as usual.
    process.once(signal, () => server.close());
  }
}

function main(argv) {
  let parsed;
  try {
    parsed = parseArgs({ args: argv, options: FLAGS, allowPositionals: true });
    const { values, positionals } = parsed;
    const { help: wantsHelp, version: wantsVersion, ...flags } = values;
    if (wantsHelp) {
      console.log(help());
    } else if (wantsVersion) {
      console.log(version);
    } else if (positionals.length === 0 || positionals.length > 2) {
      fail('expected <port> [path]; see --help', 2);
    } else {
      start(positionals[0], positionals[1], serverOptions(flags));
    }
  } catch (error) {
    fail(error.message.split('\n')[0], 2);
  }
}

main(process.argv.slice(2));
