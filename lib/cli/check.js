'use strict';

// The subcommand `check`: checks the settings of a broker without starting it.

const { readFlags } = require('../flags');
const { NativeServer } = require('../native');
const { checkServer } = require('../options');
const { parse } = require('../server/arguments');
const { FAILURE, SUCCESS } = require('./exit');
const { readServeFlags } = require('./serveFlags');
const { checkEnvironment, parseServe, withSettings } = require('./settings');

const describe = `Usage: wsmsgbroker check [port] [path] [--config <file>] [options]

Checks the settings that "serve" with the same arguments would use, with those of the file and
of the environment, and reads the files of tokens and TLS. Prints the place of an error.
Nothing is started. For the options see "wsmsgbroker serve --help".

Exit codes: 0 the settings are valid, 1 they are not.
`;

/** The name of the flag that a message is about. */
function flagOf(message) {
  const [, flag] = /--([\w-]+)/.exec(message) ?? [];
  const [, option] = /option "([\w.]+)"/.exec(message) ?? [];
  const kebab = option?.replace(/[A-Z.]/g, (c) => `-${c === '.' ? '' : c.toLowerCase()}`);
  const others = { 'nats-servers': 'nats', 'admin-port': 'admin', delay: 'drain-delay' };
  return others[kebab] ?? kebab ?? flag;
}

async function run(args) {
  let places = new Map();
  try {
    const found = withSettings(args);
    ({ places } = found);
    const { values, positionals } = parseServe(found.args);
    const { flags } = readServeFlags(values);
    const [port, path, ...rest] = positionals;
    if (port === undefined || rest.length > 0) {
      throw new Error('expected <port> [path]');
    }
    const { native } = parse(checkServer({ port, path, ...readFlags(flags) }));
    NativeServer.check(native);
    checkEnvironment();
  } catch (error) {
    const place = places.get(flagOf(error.message));
    process.stderr.write(
      `wsmsgbroker: ${place ? `${place}: ` : ''}${error.message.split(/\n|\. To specify/)[0]}\n`,
    );
    return FAILURE;
  }
  process.stdout.write('the settings are valid\n');
  return SUCCESS;
}

module.exports = { describe, run };
