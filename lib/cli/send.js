'use strict';

// The subcommand `send`: sends a message, and fails unless the broker has queued it for all receivers.

const { HELP, OPTIONS, connect, idsOf, messageOf } = require('./connect');
const { FAILURE, SUCCESS, UsageError } = require('./exit');

const describe = `Usage: wsmsgbroker send <url> <ids> [message] [options]

Sends a message to one id, or to several separated by commas. The message is JSON; without
one, stdin is read. Fails, and prints the ids, unless the broker has queued it for all of them.

${HELP}
  wsmsgbroker send ws://localhost:9042 alice '{"text":"hello"}'
`;

async function run(values, positionals) {
  const [url, ids, argument, ...rest] = positionals;
  if (ids === undefined || rest.length > 0) {
    throw new UsageError('expected <url> <ids> [message]');
  }
  const message = await messageOf(argument);
  const client = await connect(url, values);
  try {
    const { failed } = await client.deliver(message, idsOf(ids));
    for (const [id, { code }] of failed) {
      process.stderr.write(`wsmsgbroker: not delivered to ${JSON.stringify(id)}: ${code}\n`);
    }
    return failed.size > 0 ? FAILURE : SUCCESS;
  } finally {
    client.close();
  }
}

module.exports = { options: OPTIONS, describe, run };
