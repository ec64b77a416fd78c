#!/usr/bin/env node
'use strict';

// The command wsbrokerserver: parses flags, starts a broker, prints its events, and stops it on signals.

const net = require('node:net');
const { parseArgs } = require('node:util');
const { FLAGS, helpLines, readFlags, unknownFlag } = require('../lib/flags');
const { FORMATS, readServeFlags } = require('../lib/cli/serveFlags');
const LineWriter = require('../lib/lineWriter');
const { LEVELS } = require('../lib/log/events');
const LimitedLogger = require('../lib/log/limitedLogger');
const createLineLogger = require('../lib/log/lineLogger');
const { printable } = require('../lib/printable');
const { version } = require('../package.json');

/** Default time for pending requests after SIGTERM, in milliseconds. */
const DRAIN = 5000;
/** Time at the end of the process for output that its reader has not read yet, in milliseconds. */
const LINGER = 500;
/** Time that systemd is asked for in addition to that of a drain, in milliseconds. */
const SPARE = 5000;

/** The log of `--log`: lines at stderr in place of all other output. Undefined without that flag. */
let log;

const dropNotice = (count) =>
  log === undefined
    ? `wsbrokerserver: ${count} lines of output were dropped`
    : log.lines.warn({ event: 'command', count }, 'lines of output were dropped');
const output = new LineWriter(process.stdout, dropNotice);
const errors = new LineWriter(process.stderr, dropNotice);

/** Creates the log. `lines`: the same logger, but its methods return the line. */
function createLog(format, level) {
  // Instead of Node's own listener, which prints to stderr.
  process.removeAllListeners('warning');
  process.on('warning', ({ name, message }) => report(`${name}: ${message}`));
  const logger = createLineLogger(format, level, (line) => errors.write(line));
  const lines = createLineLogger(format, level, (line) => line);
  return { logger, lines, limited: new LimitedLogger(logger) };
}

/** The exit codes that shells report for a process ended by a signal. */
const EXIT = { SIGINT: 130, SIGTERM: 143 };

/** A `<port>` or a value of `--admin` that means a socket of systemd, with its name. */
const SYSTEMD = /^systemd(?::(.+))?$/;

/** The addresses that mean all addresses of the machine. */
const ALL = new net.BlockList();
ALL.addAddress('0.0.0.0', 'ipv4');
ALL.addAddress('::', 'ipv6');

const PARSED = {
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'v' },
  drain: { type: 'string', default: `${DRAIN}` },
  'drain-delay': { type: 'string', default: '0' },
  log: { type: 'string' },
  'log-level': { type: 'string' },
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
    [
      `--log <${FORMATS.join('|')}>`,
      'write a log to stderr, in place of all other output (no log; text with --log-level)',
    ],
    [`--log-level <${[...LEVELS, 'off'].join('|')}>`, 'lowest level of the log (info)'],
    ['-h, --help', 'print this help and exit'],
    ['-v, --version', 'print the version and exit'],
  ];
  const width = Math.max(...lines.map(([flag]) => flag.length)) + 2;
  return [
    'Usage: wsbrokerserver <port> [path] [options]',
    '',
    'Starts a broker at ws://<host>:<port>/<path>. Prints "+ id" when an id is registered, and',
    '"- id" when its registration ends. A <port> that is not a number is the path of a Unix socket;',
    '"systemd" is the socket that systemd passes, "systemd:NAME" the one with this name. So it is',
    'for --admin.',
    '',
    'Options, with their defaults in parentheses:',
    ...lines.map(([flag, text]) => `  ${flag.padEnd(width)}${text}`),
    '',
    'SIGTERM closes the broker after the pending requests, SIGINT immediately. SIGHUP reads the files',
    'of --tls-..., --jwt-... and --admin-token again, for new connections.',
  ].join('\n');
}

/** Prints a message to stderr, or writes it to the log. */
function report(message, level = 'warn') {
  if (log === undefined) {
    errors.write(`wsbrokerserver: ${message}`);
  } else {
    log.limited.write(level, 'command', {}, message);
  }
}

/** Prints a line to stderr, whatever the level of the log, and ends with an exit code. */
function fail(message, code) {
  if (log === undefined) {
    report(message);
  } else {
    log.logger.error({ event: 'command' }, message);
  }
  end(code);
}

/** Sets the exit code: 2 for a wrong command line, 1 for an error of the system. */
function end(code) {
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
  const { admin, ...options } = readFlags(flags);
  const WSMsgBroker = require('..');
  const { DEFAULTS } = require('../lib/server/arguments');
  const { Notifier } = require('../lib/systemd');
  const notifier = new Notifier(report);
  let server;
  handleHangUp(() => server, flags, notifier);
  try {
    server = new WSMsgBroker.Server({
      ...listener(port),
      path,
      ...options,
      admin: admin && { ...admin, port: undefined, ...listener(admin.port) },
      logger: log?.logger,
    });
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
    if (log === undefined) {
      output.write(`WSMsgBroker server listening on ${where}`);
      const adminAddress = server.adminAddress();
      if (adminAddress !== null) {
        report(`admin endpoint listening on ${adminPlaceOf(adminAddress)}`, 'info');
      }
    }
    notifier.ready(server, `listening on ${where}`);
    if (options.jwt === undefined && isAll(address)) {
      report('any client that can reach this machine may register (see --host and --jwt-secret)');
    }
  });
  if (log !== undefined) {
    // Without a listener there is a warning as well.
    server.on('cluster', () => {});
  } else {
    server.on('registered', (id) => output.write(` + ${printable(id)}`));
    server.on('unregistered', (id) => output.write(` - ${printable(id)}`));
    server.on('cluster', (state, reason) => {
      const why = reason === null ? '' : ` (${reason})`;
      report(`cluster ${state}${printable(why)}`);
    });
  }
  server.on('error', (error) => {
    if (error.syscall !== undefined || error.code === 'ERR_WSMB_CLUSTER') {
      if (log?.limited.isEnabled('error')) {
        // The server has written it to the log.
        end(1);
      } else {
        fail(error.message, 1);
      }
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
  const match = SYSTEMD.exec(port ?? '');
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
  return hostAndPort(address);
}

function hostAndPort({ family, address, port }) {
  return `${family === 'IPv6' ? `[${address}]` : address}:${port}`;
}

/** The address of the admin endpoint as text. */
const adminPlaceOf = (address) =>
  typeof address === 'string' ? `unix:${address}` : `http://${hostAndPort(address)}/`;

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

/** By the beginning of their flags, the options whose files are read again, and their names in messages. */
const RENEWED = {
  'tls-': ['the TLS certificate', (server, { tls }) => server.setTls(tls)],
  'jwt-': ['the keys of tokens', (server, { jwt }) => server.setJwt(jwt)],
  'admin-token': ['the admin token', (server, { admin }) => server.setAdminToken(admin.token)],
};

/** Reads the files of flags again, and prints which. If one is invalid, prints the error and keeps its former content. */
function renew(server, flags) {
  const [renewed, kept] = [[], []];
  for (const [prefix, [name, change]] of Object.entries(RENEWED)) {
    const own = Object.entries(flags).filter(([flag]) => flag.startsWith(prefix));
    if (own.length === 0) continue;
    try {
      change(server, readFlags(Object.fromEntries(own)));
      renewed.push(name);
    } catch (error) {
      kept.push(name);
      report(`${error.message}; SIGHUP has not changed ${name}`, 'error');
    }
  }
  if (renewed.length > 0) {
    report(`SIGHUP has reloaded ${renewed.join(', ')}`, 'info');
  } else if (kept.length === 0) {
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
    if (wantsHelp) {
      output.write(help());
    } else if (wantsVersion) {
      output.write(version);
    } else if (positionals.length === 0 || positionals.length > 2) {
      fail('expected <port> [path]; see --help', 2);
    } else {
      const [port, path] = positionals;
      const { closing, logging, flags } = readServeFlags(others);
      if (logging) {
        log = createLog(logging.format, logging.level);
      }
      start(port, path, closing, flags);
    }
  } catch (error) {
    fail(unknownFlag(error) ?? error.message.split('\n')[0], 2);
  }
}

main(process.argv.slice(2));
