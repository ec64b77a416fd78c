'use strict';

// The subcommand `bench`: measures how fast a broker passes on messages and requests of clients in this process.

const { randomUUID } = require('node:crypto');
const { once } = require('node:events');
const { HELP, OPTIONS, connect } = require('./connect');
const { SUCCESS, UsageError } = require('./exit');
const Progress = require('./progress');

const describe = `Usage: wsmsgbroker bench <url> [options]

Connects pairs of clients, sends messages for some seconds, then requests, and prints how many
the broker has passed on. The clients are in this process, which is often slower than the
broker: the figures are what one program reaches, not what the broker can do.

${HELP}  --seconds <number>    duration of each part (5)
  --size <number>       bytes of a message (100)
  --pairs <number>      senders, each with a receiver of its own (1)
  --concurrency <number> requests of each sender at a time (1)
`;

const options = {
  ...OPTIONS,
  seconds: { type: 'string', default: '5' },
  size: { type: 'string', default: '100' },
  pairs: { type: 'string', default: '1' },
  concurrency: { type: 'string', default: '1' },
};

/** A whole number of at least 1, at most `most`. */
function readNumber(name, text, most) {
  const number = Number(text);
  if (!/^[1-9]\d*$/.test(text) || number > most) {
    throw new UsageError(`--${name} is '${text}', expected a number from 1 to ${most}`);
  }
  return number;
}

/** Sends messages until `end`. Resolves when all have arrived. */
async function sendAll({ sender, id }, text, end) {
  for (let isFull = false; performance.now() < end; isFull = !sender.send(text, id)) {
    if (isFull) await once(sender, 'drain');
    // Lets the process read what arrives.
    else if (Math.random() < 0.01) await new Promise(setImmediate);
  }
  // Arrives behind them.
  await sender.request(null, id);
}

/** Sends requests one after the other until `end`, and records their durations. */
async function requestAll({ sender, id }, text, end, durations) {
  for (let now = performance.now(); now < end; ) {
    await sender.request(text, id);
    const after = performance.now();
    durations.push(after - now);
    now = after;
  }
}

const format = (number) => Math.round(number).toLocaleString('en-US');

async function run(values, positionals) {
  const [url, ...rest] = positionals;
  if (url === undefined || rest.length > 0) {
    throw new UsageError('expected <url>');
  }
  const seconds = readNumber('seconds', values.seconds, 3600);
  const size = readNumber('size', values.size, 1 << 20);
  const pairs = readNumber('pairs', values.pairs, 1000);
  const concurrency = readNumber('concurrency', values.concurrency, 1000);
  const clients = [];
  try {
    let received = 0;
    const connected = [];
    for (let n = 0; n < pairs; n += 1) {
      const id = `bench-${randomUUID()}`;
      const receiver = await connect(url, values, id);
      const sender = await connect(url, values);
      clients.push(receiver, sender);
      receiver.on('message', (_, response) => {
        if (response) response.send(null);
        else received += 1;
      });
      connected.push({ sender, id });
    }
    // A JSON string of that size.
    const text = 'x'.repeat(Math.max(size - 2, 0));
    const progress = new Progress(2 * seconds * 1000);
    const begin = performance.now();
    const end = begin + seconds * 1000;
    await Promise.all(connected.map((pair) => sendAll(pair, text, end)));
    const rate = (received / (performance.now() - begin)) * 1000;
    const durations = [];
    const start = performance.now();
    const askers = connected.flatMap((pair) => Array.from({ length: concurrency }, () => pair));
    await Promise.all(
      askers.map((pair) => requestAll(pair, text, start + seconds * 1000, durations)),
    );
    const requests = (durations.length / (performance.now() - start)) * 1000;
    progress.end();
    durations.sort((a, b) => a - b);
    const at = (share) =>
      durations[Math.min(Math.floor(durations.length * share), durations.length - 1)].toFixed(2);
    process.stdout.write(
      `messages: ${format(rate)}/s, ${((rate * size) / 1e6).toFixed(1)} MB/s (${size} bytes, pairs: ${pairs})\n` +
        `requests: ${format(requests)}/s, p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, max ${at(1)} ms ` +
        `(at a time: ${askers.length})\n`,
    );
    return SUCCESS;
  } finally {
    for (const client of clients) client.close();
  }
}

module.exports = { options, describe, run };
