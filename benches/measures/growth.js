'use strict';

// Throughput of a flow with a growing number of other, silent connections.

const { hold } = require('../driver/processes');
const report = require('../driver/report');
const { COMPARED, among, eachRound, measured } = require('../driver/rounds');

const CONNECTIONS = [10, 1000, 10_000];
const LOAD = { pairs: 8, size: 100, window: 512 };
const GROUPS = ['connections'];
const FIELDS = ['messages_per_second', 'cpu_us_per_message'];

/** Adds `to_fewest`: the throughput relative to that with the fewest connections. */
function compareGrowth(rows) {
  for (const row of rows) {
    const fewest = rows.find(({ rival }) => rival === row.rival);
    row.to_fewest = row.messages_per_second.median / fewest.messages_per_second.median;
  }
  return rows;
}

async function once(broker, connections, run) {
  const during = () => measured('pairs', broker, LOAD, run);
  const [sample] = await hold('idle', broker, { connections }, during);
  return { connections, ...sample };
}

async function measure(rivals, run) {
  const chosen = among(rivals, run, ...COMPARED);
  const rounds = Math.min(run.settings.rounds, run.quick ? 1 : 3);
  const samples = [];
  for (const connections of run.quick ? [10, 1000] : CONNECTIONS) {
    const one = (broker) => once(broker, connections, run);
    samples.push(...(await eachRound(chosen, rounds, run.placements[0], one)));
  }
  const rows = report.summarize(samples, GROUPS, [...FIELDS, 'saturation', 'others']);
  return compareGrowth(report.compare(rows, GROUPS, FIELDS));
}

function table(rows) {
  return report.table(rows, [
    ['connections', (row) => report.integer(row.connections)],
    ['broker', (row) => row.rival],
    ['messages/s', (row) => report.throughput(row)],
    ['to its own with the fewest', (row) => `${report.number(row.to_fewest)}x`],
    ['to ws8', (row) => report.times(row.messages_per_second)],
    ['CPU us/message', (row) => report.withSpread(row.cpu_us_per_message)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
    ['rounds', (row) => row.rounds.length],
  ]);
}

module.exports = { name: 'growth', title: 'Beside silent connections', measure, table };
