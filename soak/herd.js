'use strict';

// Many clients that reconnect to a broker: `node soak/herd.js`. See README.md beside this file.

const { integer, origin, table } = require('../testkit/report');
const { RESULTS, parse, publish, run } = require('./command');
const chart = require('./herd/chart');
const play = require('./herd/play');

const USAGE = `usage: node soak/herd.js [options]
  --clients N   number of clients (default 1000)
  --out FOLDER  where herd.md and herd.svg are written (default soak/results)
`;

const DOWN = 1000;
const DRAIN = 10_000;
/** Width of a slot, ms. */
const SLOT = 100;

const WAYS = {
  killed: { title: `killed, back after ${DOWN / 1000} s`, way: { down: DOWN }, reconnect: true },
  alike: {
    title: `killed, back after ${DOWN / 1000} s; \`jitter: 0\``,
    way: { down: DOWN },
    reconnect: { jitter: 0 },
  },
  quiet: {
    title: `\`close({ drain: ${DRAIN} })\`, no request in flight`,
    way: { drain: DRAIN },
    reconnect: true,
  },
  busy: {
    title: `\`close({ drain: ${DRAIN} })\`, a request in flight throughout`,
    way: { drain: DRAIN, isBusy: true },
    reconnect: true,
  },
};
const KINDS = { native: 'addon', browser: 'browser client on ws' };

/** How many clients reconnected in each slot. */
function slots(back) {
  const counts = Array(Math.floor(back.at(-1) / SLOT) + 1).fill(0);
  for (const at of back) counts[Math.floor(at / SLOT)] += 1;
  return counts;
}

const quantile = (sorted, share) => sorted[Math.ceil(share * sorted.length) - 1];

function row({ kind, name, back, failed, listening, registered }) {
  const seconds = (ms) => (ms / 1000).toFixed(2);
  return [
    KINDS[kind],
    WAYS[name].title,
    seconds(listening),
    ...[0.1, 0.5, 0.9, 0.99, 1].map((share) => seconds(quantile(back, share))),
    Math.max(...slots(back)),
    failed,
    registered,
  ];
}

function markdown(results, clients, command) {
  const head = ['client', 'the broker is', 'listens again', '10 %', '50 %', '90 %', '99 %', 'all'];
  const more = [`most in ${SLOT} ms`, 'failed attempts', 'registered'];
  return `${[
    '# Reconnection of many clients',
    `${integer(clients)} clients with \`reconnect\` lose their broker at the same moment. When is each of them connected\n` +
      'again? Method and repetition: [README.md](../README.md).',
    origin(command),
    `![reconnected clients over time](herd.svg)`,
    'Seconds since the broker was killed or began to drain: until the next broker listens on its port, and until the given\n' +
      'share of the clients was registered there:',
    table([...head, ...more], results.map(row)),
    '`reconnect.jitter` spreads the clients after a kill. During a drain, `goaway` makes each client leave at a random time\n' +
      'within the time of the drain, and the broker waits for all of them.',
  ].join('\n\n')}\n`;
}

function picture(results) {
  const panels = Object.entries(WAYS).map(([name, { title }]) => {
    const those = results.filter((result) => result.name === name);
    return {
      title: `reconnected clients per ${SLOT} ms: ${title.replaceAll('`', '')}`,
      lines: those.map(({ kind, back }) => ({ kind, counts: slots(back) })),
      listening: those[0].listening / 1000,
    };
  });
  return chart(panels, KINDS, SLOT);
}

async function main() {
  const options = parse(USAGE, { clients: 1000, out: RESULTS });
  const results = [];
  for (const kind of Object.keys(KINDS)) {
    for (const [name, { way, reconnect }] of Object.entries(WAYS)) {
      const played = await play({ kind, count: options.clients, reconnect, way });
      results.push({ kind, name, ...played });
      console.error(`${kind}, ${name}: all reconnected after ${played.back.at(-1)} ms`);
    }
  }
  const report = markdown(
    results,
    options.clients,
    `node soak/herd.js --clients ${options.clients}`,
  );
  publish(options.out, { 'herd.md': report, 'herd.svg': picture(results) });
  if (results.some(({ registered }) => registered !== options.clients)) process.exitCode = 1;
}

run(main);
