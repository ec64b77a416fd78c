'use strict';

// What a receiver that takes nothing costs the others: the round trips of a healthy pair without and
// beside a flood of 4 KB messages to it. What a broker does about that receiver is its own affair.

const os = require('node:os');
const { setTimeout: sleep } = require('node:timers/promises');
const { hold, runLoad } = require('../driver/processes');
const report = require('../driver/report');
const { COMPARED, among, eachRound } = require('../driver/rounds');

const FLOOD = { size: 4096 };
const PAIR = { pairs: 1, size: 100 };
const GROUPS = ['cpus'];
const FIELDS = [
  'quiet_p99_us',
  'p99_us',
  'p50_us',
  'flood_per_second',
  'longest_hold_ms',
  'saturation',
];
// What the flood does at its very beginning, to an empty queue, is nothing that lasts.
const SETTLE = 300;

async function once(broker, run) {
  const seconds = run.quick ? 0.5 : 2.5;
  // Once a broker has given up the receiver, it may well say that it is gone.
  broker.provoked = /deaf/;
  await runLoad('request', broker, { ...PAIR, seconds: run.settings.warmup_seconds });
  const quiet = await runLoad('request', broker, { ...PAIR, seconds: seconds / 2 });
  const [beside, flood] = await hold('flood', broker, FLOOD, async (pid) => {
    // It stands for another machine: what it computes is not to be taken from the healthy pair.
    os.setPriority(pid, os.constants.priority.PRIORITY_LOW);
    await sleep(SETTLE);
    return runLoad('request', broker, { ...PAIR, seconds });
  });
  return {
    quiet_p99_us: quiet.p99_us,
    p50_us: beside.p50_us,
    p99_us: beside.p99_us,
    p999_us: beside.p999_us,
    messages: beside.messages,
    saturation: beside.saturation,
    flood_per_second: flood.messages / flood.seconds,
    longest_hold_ms: flood.longest_hold_ms,
  };
}

async function measure(rivals, run) {
  const chosen = among(rivals, run, ...COMPARED);
  const rounds = Math.min(run.settings.rounds, run.quick ? 1 : 3);
  const samples = await eachRound(chosen, rounds, run.placements[0], (broker) => once(broker, run));
  return report.compare(report.summarize(samples, GROUPS, FIELDS), GROUPS, ['p99_us'], 'nats');
}

function table(rows) {
  return report.table(rows, [
    ['broker', (row) => row.rival],
    ['p99 us without', (row) => report.withSpread(row.quiet_p99_us)],
    ['p99 us beside', (row) => report.withSpread(row.p99_us)],
    ['to nats', (row) => report.times(row.p99_us)],
    ['p50 us beside', (row) => report.withSpread(row.p50_us)],
    ['flood, messages/s', (row) => report.withSpread(row.flood_per_second)],
    ['longest hold of the flood, ms', (row) => report.withSpread(row.longest_hold_ms)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
    ['rounds', (row) => row.rounds.length],
  ]);
}

module.exports = { name: 'slow', title: 'Beside a receiver that takes nothing', measure, table };
