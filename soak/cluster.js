'use strict';

// Brokers that are one, while something breaks all the time: `node soak/cluster.js`. See README.md beside this file.

const { integer, origin, table } = require('../testkit/report');
const play = require('./cluster/play');
const { RESULTS, parse, publish, run } = require('./command');

const USAGE = `usage: node soak/cluster.js [options]
  --minutes N   how long (default 10)
  --every MS    a fault begins each so many ms (default 2000)
  --seed N      of the order of faults (default 1)
  --out FOLDER  where cluster-faults.md is written (default soak/results)
`;

const rows = (counts) =>
  Object.entries(counts)
    .sort(([, one], [, other]) => other - one)
    .map(([what, count]) => [what, integer(count)]);

function markdown({ counts, requests, happened, arrived, faults }, command) {
  return `${[
    '# Brokers that are one, while something breaks',
    'Three brokers and a NATS server are processes of their own; twelve clients send to each other through whatever broker\n' +
      'is there, and one of these faults begins every 2 seconds. Each message has a number; what its sender was told of it\n' +
      '(`deliver`) and what arrived are kept apart, and compared at the end. How, and how to repeat it:\n' +
      '[README.md](../README.md); what the codes mean: [cluster.md](../../docs/cluster.md).',
    origin(command),
    table(['fault', 'times'], rows(happened)),
    `${integer(arrived)} messages arrived. What their senders were told, and what became of them:`,
    table(['told, and became', 'messages'], rows(counts)),
    'What is told `delivered` and is lost was in the outbox of a connection that ended, or at a broker that was killed.\n' +
      'What is told `CLUSTER_DOWN`, `TIMEOUT` or `ERR_WSMB_CONNECTION_LOST` may have arrived all the same: nobody could say so.',
    'What became of requests:',
    table(['outcome', 'requests'], rows(requests)),
    faults.length === 0
      ? 'Nothing came twice, each pair was in order, every promise was settled, and in the end each id was at one broker.'
      : `What must not be:\n\n${faults
          .slice(0, 100)
          .map((fault) => `- ${fault}`)
          .join('\n')}`,
  ].join('\n\n')}\n`;
}

async function main() {
  const options = parse(USAGE, { minutes: 10, every: 2000, seed: 1, out: RESULTS });
  const { minutes, every, seed } = options;
  const begun = Date.now();
  const log = (name) => console.error(`${((Date.now() - begun) / 1000).toFixed(1)} s: ${name}`);
  const played = await play({ ms: minutes * 60_000, every, seed, log });
  const command = `node soak/cluster.js --minutes ${minutes} --every ${every} --seed ${seed}`;
  const report = markdown(played, command);
  publish(options.out, { 'cluster-faults.md': report });
  process.exitCode = played.faults.length > 0 ? 1 : 0;
}

run(main);
