#!/usr/bin/env node
'use strict';

// The command wsbrokerserver: parses flags, starts a broker, prints its events, and stops it on signals.

const net = require('node:net');
const { parseArgs } = require('node:util');
const { FLAGS, VALUES, helpLines, readFlag, readFlags, unknownFlag } = require('../lib/flags');
const LineWriter = require('../lib/lineWriter');
const { checkClose } = require('../lib/options');
const { version } = require('../package.json');

/** Default time for pending requests after SIGTERM, in milliseconds. */
const DRAIN = 5000;
/** Time at the end of the process for output that its reader has not read yet, in milliseconds. */
const LINGER = 500;
/** Time that systemd is asked for in addition to that of a drain, in milliseconds. */
const SPARE = 5000;

const dropNotice = (count) => `wsbrokerserver: ${count} lines of output were dropped`;
const output = new LineWriter(process.stdout, dropNotice);
const errors = new LineWriter(process.stderr, dropNotice);

/** The exit codes that shells report for a process ended by a signal. */
const EXIT = { SIGINT: 130, SIGTERM: 143 };

/** A `<port>` that means a socket of systemd, with its name. */
const SYSTEMD = /^systemd(?::(.+))?$/;

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
  'drain-delay': { type: 'string', default: '0' },
};
for (const { name, isRepeatable } of FLAGS) {
  PARSED[name] = { type: 'string', multiple: isRepeatable };
}

function help() {
  const lines = [
    ...helpLines(),
    ['--drain <number>', `ms for pending requests after SIGTERM (${DRAIN})`],
    [
      '--drain-delay <number>',
      'ms before that, in which /readyz is 503 and clients are accepted (0)',
    ],
    ['-h, --help', 'print this help and exit'],
    ['-v, --version', 'print the version and exit'],
  ];
  const width = Math.max(...lines.map(([flag]) => flag.length)) + 2;
  return [
    'Usage: wsbrokerserver <port> [path] [options]',
    '',
    'Starts a broker at ws://<host>:<port>/<path>. Prints "+ id" when an id is registered, and',
    '"- id" when its registration ends. A <port> that is not a number is the path of a Unix socket;',
    '"systemd" is the socket that systemd passes, "systemd:NAME" the one with this name.',
    '',
    'Options, with their defaults in parentheses:',
    ...lines.map(([flag, text]) => `  ${flag.padEnd(width)}${text}`),
    '',
    'SIGTERM closes the broker after the pending requests, SIGINT immediately. SIGHUP reads the files',
    'of --tls-..., --jwt-... and --admin-token again, for new connections.',
  ].join('\n');
}

/** Prints a message to stderr. */
function report(message) {
  errors.write(`wsbrokerserver: ${message}`);
}

/** Prints a line to stderr, and sets the exit code: 2 for a wrong command line, 1 for an error of the system. */
function fail(message, code) {
  report(message);
  process.exitCode = code;
  limitLinger();
}

/** Ends the process even if output waits for a reader that does not read. */
function limitLinger() {
  if (output.queued + errors.queued > 0) {
    setTimeout(() => process.exit(), LINGER).unref();
  }
}

function start(port, path, closing, flags) {
  const options = readFlags(flags);
  const WSMsgBroker = require('..');
  const { DEFAULTS } = require('../lib/server/arguments');
  const { Notifier } = require('../lib/systemd');
  const notifier = new Notifier(report);
  let server;
  handleHangUp(() => server, flags, notifier);
  try {
    server = new WSMsgBroker.Server({ ...listener(port), path, ...options });
  } catch (error) {
    fail(error.message, 2);
    return;
  }
  const { options: shown } = server.wss;
  if (options.nats?.required) {
    notifier.status('connecting to NATS');
  }
  server.on('listening', () => {
    const address = server.address();
    // Without TLS the line is the same as in version 1.
    const scheme = options.tls ? 'wss://' : '';
    const where = `${scheme}${placeOf(address, shown)}${shown.path}`;
    output.write(`WSMsgBroker server listening on ${where}`);
    notifier.ready(server, `listening on ${where}`);
    if (options.jwt === undefined && isAll(address)) {
      report('any client that can reach this machine may register (see --host and --jwt-secret)');
    }
  });
  server.on('registered', (id) => output.write(` + ${printable(id)}`));
  server.on('unregistered', (id) => output.write(` - ${printable(id)}`));
  server.on('cluster', (state, reason) => {
    const why = reason === null ? '' : ` (${reason})`;
    report(`cluster ${state}${printable(why)}`);
  });
  server.on('error', (error) => {
    if (error.syscall !== undefined || error.code === 'ERR_WSMB_CLUSTER') {
      fail(error.message, 1);
      notifier.status(error.message);
    }
  });
  const { closeTimeout = DEFAULTS.closeTimeout } = options;
  stopOnSignals(server, closing, (stage, time) => {
    notifier.stopping(stage, time + closeTimeout + SPARE);
  });
}

/** The option of the address to listen on. */
function listener(port) {
  const match = SYSTEMD.exec(port);
  return match ? { fd: require('../lib/systemd').findSocket(match[1]) } : { port };
}

/** Host and port of a broker as text. `shown`: those of the command line. */
function placeOf(address, shown) {
  if (shown.port !== undefined) {
    // For port 0 the operating system has chosen a free port.
    return `${shown.host}:${address.port ?? shown.port}`;
  }
  if (typeof address === 'string') {
    return `unix:${address}:`;
  }
  const host = address.family === 'IPv6' ? `[${address.address}]` : address.address;
  return `${host}:${address.port}`;
}

/**
 * SIGHUP reads files again. SIGUSR2 is ignored: service managers and scripts for log rotation send both signals to any
 * program, and their default is to end it.
 */
function handleHangUp(getServer, flags, notifier) {
  process.on('SIGUSR2', () => {});
  process.on('SIGHUP', () => {
    const server = getServer();
    if (server !== undefined) {
      notifier.reload(() => renew(server, flags));
    }
  });
}

/**
 * SIGTERM drains, SIGINT closes. A second signal ends the drain, a third one ends the process. `announce` is called with
 * the stage that begins, and its time limit in milliseconds.
 */
function stopOnSignals(server, closing, announce) {
  let signals = 0;
  const stop = (signal) => {
    signals += 1;
    if (signals > 2) {
      process.exit(EXIT[signal]);
    }
    if (signals === 1 && signal === 'SIGTERM') {
      announce('draining', closing.delay + closing.drain);
      server.close(closing).then(limitLinger);
    } else {
      announce('closing', 0);
      server.close().then(limitLinger);
    }
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

/** By the beginning of their flags, the options whose files are read again. */
const RENEWED = {
  'tls-': (server, { tls }) => server.setTls(tls),
  'jwt-': (server, { jwt }) => server.setJwt(jwt),
  'admin-token': (server, { admin }) => server.setAdminToken(admin.token),
};

/** Reads the files of flags again. If one is invalid, prints the error and keeps its former content. */
function renew(server, flags) {
  let isAny = false;
  for (const [prefix, change] of Object.entries(RENEWED)) {
    const own = Object.entries(flags).filter(([name]) => name.startsWith(prefix));
    if (own.length === 0) continue;
    isAny = true;
    try {
      change(server, readFlags(Object.fromEntries(own)));
    } catch (error) {
      report(error.message);
    }
  }
  if (!isAny) {
    report('SIGHUP has no effect: there are no files to read');
  }
}

function main(argv) {
  try {
    const { values, positionals } = parseArgs({
      args: argv,
      options: PARSED,
      allowPositionals: true,
    });
    const { help: wantsHelp, version: wantsVersion, ...others } = values;
    const { drain, 'drain-delay': delay, ...flags } = others;
    if (wantsHelp) {
      output.write(help());
    } else if (wantsVersion) {
      output.write(version);
    } else if (positionals.length === 0 || positionals.length > 2) {
      fail('expected <port> [path]; see --help', 2);
    } else {
      const [port, path] = positionals;
      const [, readNumber] = VALUES.number;
      const closing = {
        drain: readFlag('drain', readNumber, drain),
        delay: readFlag('drain-delay', readNumber, delay),
      };
      checkClose(closing);
      start(port, path, closing, flags);
    }
  } catch (error) {
    fail(unknownFlag(error) ?? error.message.split('\n')[0], 2);
  }
}

main(process.argv.slice(2));
