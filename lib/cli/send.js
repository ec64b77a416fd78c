'use strict';

// The subcommand `send`: sends a message, and fails unless the broker has queued it for all receivers.

const { HELP, OPTIONS, withMessage } = require('./connect');
const { FAILURE, SUCCESS } = require('./exit');
const { printableJson } = require('../printable');

const describe = `Usage: wsmsgbroker send <url> <ids> [message] [options]

Sends a message to one id, or to several separated by commas. The message is JSON; without
one, stdin is read. Fails, and prints the ids, unless the broker has queued it for all of them.

${HELP}
  wsmsgbroker send ws://localhost:9042 alice '{"text":"hello"}'
`;

const run = (values, positionals) =>
  withMessage(values, positionals, async (client, message, ids) => {
    const { failed } = await client.deliver(message, ids);
    for (const [id, { code }] of failed) {
      process.stderr.write(`wsmsgbroker: not delivered to ${printableJson(id)}: ${code}\n`);
    }
    return failed.size > 0 ? FAILURE : SUCCESS;
  });

module.exports = { options: OPTIONS, describe, run };
