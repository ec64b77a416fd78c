'use strict';

// A cluster under continuous failures: `node soak/cluster.js`. See README.md beside this file.

const { integer, origin, table } = require('../testkit/report');
const play = require('./cluster/play');
const { RESULTS, parse, publish, run } = require('./command');

const USAGE = `usage: node soak/cluster.js [options]
  --minutes N   duration (default 10)
  --every MS    a fault begins every MS milliseconds (default 2000)
  --seed N      determines the order of faults (default 1)
  --out FOLDER  where cluster-faults.md is written (default soak/results)
`;

const rows = (counts) =>
  Object.entries(counts)
    .sort(([, one], [, other]) => other - one)
    .map(([what, count]) => [what, integer(count)]);

function markdown(
  { counts, requests, happened, arrived, topics, groups, presence, faults },
  command,
) {
  return `${[
    '# A cluster under continuous failures',
    'Three brokers and a NATS server run as separate processes. Twelve clients send to each other through any running\n' +
      'broker. 15 more use topics, groups and presence. One of these faults begins every 2 seconds, and after every eighth\n' +
      'there is none until all watchers are right. Messages are numbered. Their receipts (`deliver`) and their arrivals are\n' +
      'recorded separately and compared at the end. Method and repetition: [README.md](../README.md). Meaning of the codes:\n' +
      '[cluster.md](../../docs/cluster.md).',
    origin(command),
    table(['fault', 'times'], rows(happened)),
    `${integer(arrived)} messages arrived. Receipts and actual outcomes:`,
    table(['receipt, outcome', 'messages'], rows(counts)),
    'A message that is `delivered` but lost was in the outbox of a connection that ended, or on a broker that was killed. A\n' +
      'message with `CLUSTER_DOWN`, `TIMEOUT` or `ERR_WSMB_CONNECTION_LOST` may have arrived: its outcome is unknown.',
    'Outcomes of requests:',
    table(['outcome', 'requests'], rows(requests)),
    'Messages to topics, of which each goes to several subscriptions:',
    table(['what', 'messages'], rows(topics)),
    'Jobs, once for each group that matches. `near a fault`: a broker was disturbed, or a connection of the sender or of a\n' +
      'worker has changed, within some seconds. `retried` is a request with `retry: 3`:',
    table(['job, outcome', 'jobs'], rows(groups)),
    `Watches were compared with the truth ${integer(presence.comparisons)} times. All were right at most ` +
      `${integer(presence.longest)} ms after a fault.`,
    faults.length === 0
      ? 'No message was duplicated or reordered, every promise settled, and at the end each id was registered on one broker.\n' +
        'No message to a topic was altered, or lost without a fault or a `gap`. No job was handled twice but with `retry` and\n' +
        'near a fault, and none was lost or failed without a fault.'
      : `Violations:\n\n${faults
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
  const played = await play({ ms: minutes * 60_000, every, seed, topics: true, log });
  const command = `node soak/cluster.js --minutes ${minutes} --every ${every} --seed ${seed}`;
  const report = markdown(played, command);
  publish(options.out, { 'cluster-faults.md': report });
  process.exitCode = played.faults.length > 0 ? 1 : 0;
}

run(main);
