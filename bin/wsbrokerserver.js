#!/usr/bin/env node
'use strict';

// The command wsbrokerserver: parses flags, starts a broker, prints its events, and stops it on signals.

const net = require('node:net');
const { parseArgs } = require('node:util');
const { FLAGS, VALUES, helpLines, readFlag, readFlags } = require('../lib/flags');
const { version } = require('../package.json');

/** Default time for pending requests after SIGTERM, in milliseconds. */
const DRAIN = 5000;

/** The exit codes that shells report for a process ended by a signal. */
const EXIT = { SIGINT: 130, SIGTERM: 143 };

/** The addresses that mean all addresses of the machine. */
const ALL = new net.BlockList();
ALL.addAddress('0.0.0.0', 'ipv4');
ALL.addAddress('::', 'ipv6');

/** Ids that are printed as JSON: those with line ends or direction marks, and those that look like JSON. */
const UNPRINTABLE = /^"|[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u;
/** Characters of such an id that JSON does not escape. */
const UNESCAPED = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;

const PARSED = {
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'v' },
  drain: { type: 'string', default: `${DRAIN}` },
};
for (const { name, isRepeatable } of FLAGS) {
  PARSED[name] = { type: 'string', multiple: isRepeatable };
}

function help() {
  const lines = [
    ...helpLines(),
    ['--drain <number>', `ms for pending requests after SIGTERM (${DRAIN})`],
    ['-h, --help', 'print this help and exit'],
    ['-v, --version', 'print the version and exit'],
  ];
  const width = Math.max(...lines.map(([flag]) => flag.length)) + 2;
  return [
    'Usage: wsbrokerserver <port> [path] [options]',
    '',
    'Starts a broker at ws://<host>:<port>/<path>. Prints "+ id" when an id is registered, and',
    '"- id" when its registration ends. A <port> that is not a number is the path of a Unix socket.',
    '',
    'Options, with their defaults in parentheses:',
    ...lines.map(([flag, text]) => `  ${flag.padEnd(width)}${text}`),
    '',
    'SIGTERM closes the broker after the pending requests, SIGINT immediately. SIGHUP reads the TLS',
    'files again, for new connections.',
  ].join('\n');
}

/** Prints a line to stderr, and sets the exit code: 2 for a wrong command line, 1 for an error of the system. */
function fail(message, code) {
  process.stderr.write(`wsbrokerserver: ${message}\n`);
  process.exitCode = code;
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
    // For port 0 the operating system has chosen a free port.
    const where = address.port === undefined ? shown.port : address.port;
    // Without TLS the line is the same as in version 1.
    const scheme = options.tls ? 'wss://' : '';
    console.log(`WSMsgBroker server listening on ${scheme}${shown.host}:${where}${shown.path}`);
    if (options.jwt === undefined && isAll(address)) {
      const message =
        'any client that can reach this machine may register (see --host and --jwt-secret)';
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

/** SIGTERM drains, SIGINT closes. A second signal ends the drain, a third one ends the process. */
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

/** True for an address that means all addresses of the machine. False for a Unix socket. */
function isAll({ address, family }) {
  return family !== undefined && ALL.check(address, family.toLowerCase());
}

/** An id unchanged, or as JSON in one line. */
function printable(id) {
  if (!UNPRINTABLE.test(id)) {
    return id;
  }
  const code = (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(id).replace(UNESCAPED, code);
}

/** Reads the TLS files again. If they are invalid, prints the error and keeps the current certificate. */
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
      options: PARSED,
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
      const [, readNumber] = VALUES.number;
      start(port, path, readFlag('drain', readNumber, drain), readFlags(flags));
    }
  } catch (error) {
    fail(error.message.split('\n')[0], 2);
  }
}

main(process.argv.slice(2));
