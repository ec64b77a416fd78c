'use strict';

// The subcommand `listen`: registers an id, and prints its messages, one JSON object a line.

const { once } = require('node:events');
const { HELP, OPTIONS, connect } = require('./connect');
const { printableJson } = require('../printable');
const { FAILURE, SUCCESS, UsageError } = require('./exit');

const describe = `Usage: wsmsgbroker listen <url> <id> [options]

Registers an id, and prints its messages, one JSON object a line: {"from":...,"message":...}.
Reconnects if the connection is lost. Ends with SIGINT or SIGTERM, and fails if another client
takes the id.

${HELP}  --answer <json>       answer each request with this
  --count <number>      end after this many messages

  wsmsgbroker listen ws://localhost:9042 alice
`;

/** Options of the command line for numbers and JSON. */
function readFlags({ answer, count }) {
  if (count !== undefined && !/^[1-9]\d*$/.test(count)) {
    throw new UsageError(`--count is '${count}', expected a number of at least 1`);
  }
  try {
    return {
      answer: answer === undefined ? undefined : JSON.parse(answer),
      count: count === undefined ? Number.POSITIVE_INFINITY : Number(count),
    };
  } catch (error) {
    throw new UsageError(`--answer is not JSON (${error.message})`);
  }
}

async function run(values, positionals) {
  const [url, id, ...rest] = positionals;
  if (id === undefined || rest.length > 0) {
    throw new UsageError('expected <url> <id>');
  }
  const { answer, count } = readFlags(values);
  const client = await connect(url, values, id, { reconnect: true });
  client.on('reconnecting', () => process.stderr.write('wsmsgbroker: connection lost\n'));
  client.on('reconnected', () => process.stderr.write('wsmsgbroker: connected again\n'));
  let isReplaced = false;
  client.on('replaced', () => {
    isReplaced = true;
    process.stderr.write('wsmsgbroker: another client has taken the id\n');
    client.close();
  });
  const messages = client.messages();
  const stop = () => client.close();
  process.once('SIGINT', stop).once('SIGTERM', stop);
  // A reader that has gone ends the command, as of `wsmsgbroker listen ... | head`.
  process.stdout.on('error', stop);
  process.stderr.write(`wsmsgbroker: listening as ${printableJson(id)}\n`);
  let left = count;
  for await (const { message, from, response } of messages) {
    const isAccepted = process.stdout.write(`${printableJson({ from, message })}\n`);
    if (response !== null && answer !== undefined) {
      response.send(answer);
    }
    left -= 1;
    if (left === 0) break;
    // The broker waits as long as the reader of the output does.
    if (!isAccepted && !process.stdout.destroyed) {
      await Promise.race([once(process.stdout, 'drain'), once(client, 'close')]).catch(() => {});
    }
  }
  await client.close();
  return isReplaced ? FAILURE : SUCCESS;
}

const options = { ...OPTIONS, answer: { type: 'string' }, count: { type: 'string' } };

module.exports = { options, describe, run };
