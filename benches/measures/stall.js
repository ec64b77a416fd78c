'use strict';

// Throughput while the JavaScript of the host process is busy and clients in other processes continue. NATS
// has no host process and is not measured.

const { setTimeout: sleep } = require('node:timers/promises');
const { runLoad } = require('../driver/processes');
const report = require('../driver/report');
const { eachRound } = require('../driver/rounds');

const SLICE = 50;
const LOAD = { pairs: 8, size: 100, window: 64, slice: SLICE };
const GROUPS = ['stall_ms', 'cpus'];
const FIELDS = ['before', 'during', 'share', 'longest_gap_ms', 'saturation'];

/** Messages per second between two times, in whole slices. */
function rate({ started_at_ms: start, slices }, from, to) {
  const [first, last] = [Math.ceil((from - start) / SLICE), Math.floor((to - start) / SLICE)];
  const counts = slices.slice(Math.max(first, 0), last);
  const sum = counts.reduce((total, count) => total + count, 0);
  return sum / (((last - Math.max(first, 0)) * SLICE) / 1000);
}

async function once(broker, run) {
  const stall = run.quick ? 1000 : 2000;
  const lead = run.quick ? 500 : 1000;
  const seconds = (lead + stall + 500) / 1000;
  const loading = runLoad('pairs', broker, { ...LOAD, seconds });
  // A rejection while the broker spins is handled later.
  loading.catch(() => {});
  await sleep(lead);
  const { from, to } = await broker.spin(stall);
  const result = await loading;
  const before = rate(result, from - lead / 2, from);
  const during = rate(result, from, to);
  return {
    stall_ms: stall,
    before,
    during,
    share: during / before,
    longest_gap_ms: result.longest_gap_ms,
    saturation: result.saturation,
  };
}

async function measure(rivals, run) {
  const chosen = rivals.filter(({ script }) => script !== 'nats.js');
  const rounds = Math.min(run.settings.rounds, run.quick ? 1 : 3);
  // On all processors: the measurement is about blocking, not about competition for one processor.
  const samples = await eachRound(chosen, rounds, 'shared', (broker) => once(broker, run));
  return report.summarize(samples, GROUPS, FIELDS);
}

function table(rows) {
  return report.table(rows, [
    ['busy for', (row) => `${report.integer(row.stall_ms)} ms`],
    ['broker', (row) => row.rival],
    ['messages/s before', (row) => report.withSpread(row.before)],
    ['messages/s meanwhile', (row) => report.withSpread(row.during)],
    ['share', (row) => report.percent(row.share.median)],
    ['longest gap, ms', (row) => report.withSpread(row.longest_gap_ms)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
    ['rounds', (row) => row.rounds.length],
  ]);
}

module.exports = { name: 'stall', title: "While the host's JavaScript is busy", measure, table };
