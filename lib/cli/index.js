'use strict';

// The subcommands of the command line `wsmsgbroker`, their help, and their exit codes.

const { parseArgs } = require('node:util');
const closest = require('../closest');
const { version } = require('../../package.json');
const { FAILURE, SUCCESS, USAGE, UsageError } = require('./exit');
const { escapeUnprintable } = require('../printable');
const { withSettings } = require('./settings');

/** The subcommands that are clients. `serve` runs the command of version 1, `wsbrokerserver`. */
const COMMANDS = {
  send: require('./send'),
  request: require('./request'),
  listen: require('./listen'),
  bench: require('./bench'),
  top: require('./top'),
  store: require('./store'),
  completion: require('./completion'),
};

const NAMES = ['serve', 'check', ...Object.keys(COMMANDS)];

const HELP = `Usage: wsmsgbroker <command> [arguments] [options]

  serve <port> [path]              start a broker
  check <port> [path]              check the settings of a broker, without starting it
  listen <url> <id>                register an id, and print its messages
  send <url> <ids> [message]       send a message; fails unless all ids get it
  request <url> <ids> [message]    send a request, and print the first answer
  bench <url>                      measure messages and requests
  top [url]                        figures and slow receivers of a broker, once a second
  store <action> <folder>          check, compact, dump or export the store of a broker
  completion <bash|zsh>            print a script that completes commands and options

wsmsgbroker <command> --help lists the options of a command.
A message is JSON. Without one, stdin is read. Several ids are separated by commas.

"serve" and "check" read settings from --config <file> (JSON) and from variables such as
WSMB_MAX_PAYLOAD; the command line takes precedence.

Exit codes: 0 success, 1 failure, 2 wrong usage.
`;

/** Printed in front of the help of `wsbrokerserver`. */
const SERVE_HELP = `Usage: wsmsgbroker serve [port] [path] [--config <file>] [options]

Takes settings also from a file (JSON), and from variables such as WSMB_MAX_PAYLOAD.
"wsmsgbroker check" with the same arguments checks them. wsbrokerserver is the command of
version 1, with these arguments and options:

`;

/** Runs a subcommand. */
async function run(name, args) {
  if (name === 'check') {
    const { describe, run: check } = require('./check');
    if (!args.includes('--help') && !args.includes('-h')) return check(args);
    process.stdout.write(describe);
    return SUCCESS;
  }
  const { options, describe, run: start } = COMMANDS[name];
  const known = { ...options, help: { type: 'boolean', short: 'h' } };
  const { values, positionals } = parse(args, known);
  if (values.help) {
    process.stdout.write(describe);
    return SUCCESS;
  }
  return start(values, positionals);
}

/** Parses arguments. Throws a UsageError that names an unknown option, and the one that is meant. */
function parse(args, options) {
  try {
    return parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    const [, flag] = /^Unknown option '(-[^']*)'/.exec(error.message) ?? [];
    const flags = Object.keys(options).map((name) => `--${name}`);
    const meant = flag && closest(flag, flags);
    const advice = meant ? `, did you mean ${meant}?` : '';
    throw new UsageError(
      flag ? `unknown option '${flag}'${advice}` : error.message.split(/\n|\. To specify/)[0],
    );
  }
}

/** Runs the command line, and sets the exit code. */
async function main([name, ...args]) {
  if (name === undefined || name === '--help' || name === '-h') {
    process.stdout.write(HELP);
    process.exitCode = name === undefined ? USAGE : SUCCESS;
    return;
  }
  if (name === '--version' || name === '-v') {
    process.stdout.write(`${version}\n`);
    return;
  }
  // A port, a path or an option of the broker: `wsmsgbroker 9042`.
  if (name === 'serve' || /^[\d/.-]/.test(name)) {
    serve(name === 'serve' ? args : [name, ...args]);
    return;
  }
  try {
    if (!NAMES.includes(name)) {
      const meant = closest(name, NAMES);
      throw new UsageError(`unknown command '${name}'${meant ? `, did you mean ${meant}?` : ''}`);
    }
    process.exitCode = await run(name, args);
  } catch (error) {
    fail(error);
  }
}

/** Starts a broker with the settings of the arguments, of a file and of the environment. */
function serve(args) {
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(SERVE_HELP);
  }
  try {
    process.argv.splice(2, Number.POSITIVE_INFINITY, ...withSettings(args).args);
  } catch (error) {
    fail(error);
    return;
  }
  require('../../bin/wsbrokerserver');
}

/** Prints an error, and sets the exit code. */
function fail(error) {
  const isUsage = error instanceof UsageError || error.code?.startsWith('ERR_WSMB_ADDRESS');
  const advice = isUsage ? '; see --help' : '';
  process.stderr.write(`wsmsgbroker: ${escapeUnprintable(error.message)}${advice}\n`);
  process.exitCode = isUsage ? USAGE : FAILURE;
}

module.exports = main;
