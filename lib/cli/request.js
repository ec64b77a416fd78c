'use strict';

// The subcommand `request`: sends a request, and prints the first answer.

const { HELP, OPTIONS, connect, idsOf, messageOf } = require('./connect');
const { SUCCESS, UsageError } = require('./exit');

const describe = `Usage: wsmsgbroker request <url> <ids> [message] [options]

Sends a request to one id, or to several separated by commas, and prints the first answer as
JSON. The message is JSON; without one, stdin is read.

${HELP}
  wsmsgbroker request ws://localhost:9042 clock '"now"'
`;

async function run(values, positionals) {
  const [url, ids, argument, ...rest] = positionals;
  if (ids === undefined || rest.length > 0) {
    throw new UsageError('expected <url> <ids> [message]');
  }
  const message = await messageOf(argument);
  const client = await connect(url, values);
  try {
    const answer = await client.request(message, idsOf(ids));
    process.stdout.write(`${JSON.stringify(answer.message)}\n`);
    return SUCCESS;
  } finally {
    client.close();
  }
}

module.exports = { options: OPTIONS, describe, run };
