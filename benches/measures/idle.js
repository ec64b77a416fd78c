'use strict';

// Memory of a registered idle connection.

const { setTimeout: sleep } = require('node:timers/promises');
const { hold } = require('../driver/processes');
const report = require('../driver/report');
const { COMPARED, among, eachRound } = require('../driver/rounds');

const CONNECTIONS = [5000, 15_000];
const GROUPS = ['connections'];
const RATIOS = ['rss_per_connection', 'pss_per_connection'];
// Pause before memory is read, so that memory of the handshakes is released, ms.
const SETTLE = 1000;

async function once(broker, connections) {
  await sleep(SETTLE);
  const empty = await broker.memory();
  const [sample] = await hold('idle', broker, { connections }, async () => {
    await sleep(SETTLE);
    const full = await broker.memory();
    return {
      connections,
      empty_rss: empty.rss,
      rss_per_connection: (full.rss - empty.rss) / connections,
      pss_per_connection: (full.pss - empty.pss) / connections,
    };
  });
  return sample;
}

async function measure(rivals, run) {
  const samples = [];
  const rounds = Math.min(run.settings.rounds, run.quick ? 1 : 3);
  for (const connections of run.quick ? [1000] : CONNECTIONS) {
    const one = (broker) => once(broker, connections);
    const chosen = connections > 5000 ? among(rivals, run, ...COMPARED) : rivals;
    samples.push(...(await eachRound(chosen, rounds, run.placements[0], one)));
  }
  return report.compare(
    report.summarize(samples, GROUPS, [...RATIOS, 'empty_rss']),
    GROUPS,
    RATIOS,
  );
}

function table(rows) {
  return report.table(rows, [
    ['connections', (row) => report.integer(row.connections)],
    ['broker', (row) => row.rival],
    ['bytes each (RSS)', (row) => report.withSpread(row.rss_per_connection)],
    ['to ws8', (row) => report.times(row.rss_per_connection)],
    ['bytes each (PSS)', (row) => report.withSpread(row.pss_per_connection)],
    ['empty', (row) => `${(row.empty_rss.median / 2 ** 20).toFixed(1)} MiB`],
    ['rounds', (row) => row.rounds.length],
  ]);
}

module.exports = { name: 'idle', title: 'Idle', measure, table };
