'use strict';

// The options, the connection and the message of the subcommands that are clients.

const fs = require('node:fs');
const { text } = require('node:stream/consumers');
const { UsageError } = require('./exit');

/** Options of a connection, for `parseArgs`. */
const OPTIONS = {
  'token-file': { type: 'string' },
  ca: { type: 'string' },
  timeout: { type: 'string', default: '5000' },
};

/** Their help. */
const HELP = `  --token-file <file>   token for the registration: the first line of this file;
                        without it the variable WSMB_TOKEN
  --ca <file>           authorities of the broker's certificate (PEM)
  --timeout <number>    ms for the connection and the answer (5000)
`;

/** The options `timeout` and those of a client, for the values of flags. */
function readOptions(values) {
  const timeout = Number(values.timeout);
  if (!/^\d+$/.test(values.timeout) || timeout < 1) {
    throw new UsageError(`--timeout is '${values.timeout}', expected a number of at least 1`);
  }
  const token = readToken(values);
  const tls = values.ca ? { ca: read(values.ca) } : undefined;
  return { timeout, client: { protocol: 2, requestTimeout: timeout, token, tls } };
}

/** The token of a file, or of the environment. */
function readToken({ 'token-file': file }) {
  return file ? read(file).split(/\r?\n/)[0] : process.env.WSMB_TOKEN;
}

function read(file) {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(error.message);
  }
}

/** A client that is registered under a random id, or under this one. */
async function connect(url, values, id, more) {
  const { timeout, client: options } = readOptions(values);
  const WSMsgBroker = require('../..');
  const name = id ?? `wsmsgbroker-${require('node:crypto').randomUUID()}`;
  try {
    const client = new WSMsgBroker(name, url, { ...options, ...more });
    await client.connected({ timeout });
    return client;
  } catch (error) {
    // The option of a program is a flag here.
    error.message = error.message.replace(/(?:option )?"tls\.ca"/, '--ca');
    throw error;
  }
}

/**
 * The message of an argument, or of stdin without one. Throws unless it is JSON. Numbers are those of JavaScript: a
 * larger integer is rounded.
 */
async function messageOf(argument) {
  const json = argument ?? (await text(process.stdin));
  try {
    return JSON.parse(json);
  } catch (error) {
    throw new UsageError(`the message is not JSON (${error.message})`);
  }
}

/**
 * Runs a command with the arguments `<url> <ids> [message]`: calls `use(client, message, ids)`, and closes the client. Ids
 * are separated by commas.
 */
async function withMessage(values, [url, ids, argument, ...rest], use) {
  if (ids === undefined || rest.length > 0) {
    throw new UsageError('expected <url> <ids> [message]');
  }
  const message = await messageOf(argument);
  const client = await connect(url, values);
  try {
    return await use(client, message, ids.split(','));
  } finally {
    client.close();
  }
}

module.exports = { OPTIONS, HELP, readToken, connect, withMessage };
