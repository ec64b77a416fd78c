'use strict';

// The subcommand `request`: sends a request, and prints the first answer.

const { HELP, OPTIONS, withMessage } = require('./connect');
const { printableJson } = require('../printable');
const { SUCCESS } = require('./exit');

const describe = `Usage: wsmsgbroker request <url> <ids> [message] [options]

Sends a request to one id, or to several separated by commas, and prints the first answer as
JSON. The message is JSON; without one, stdin is read.

${HELP}
  wsmsgbroker request ws://localhost:9042 clock '"now"'
`;

const run = (values, positionals) =>
  withMessage(values, positionals, async (client, message, ids) => {
    const answer = await client.request(message, ids);
    process.stdout.write(`${printableJson(answer.message)}\n`);
    return SUCCESS;
  });

module.exports = { options: OPTIONS, describe, run };
