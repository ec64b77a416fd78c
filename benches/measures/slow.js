'use strict';

// The effect of a receiver that reads nothing on others: round trips of a healthy pair with and without a
// flood of 4 KB messages to that receiver. Each broker may treat the receiver in its own way.

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
// The beginning of the flood, with an empty queue, is not representative.
const SETTLE = 300;

async function once(broker, run) {
  const seconds = run.quick ? 0.5 : 2.5;
  // A broker that closes the receiver may log that.
  broker.provoked = /deaf/;
  await runLoad('request', broker, { ...PAIR, seconds: run.settings.warmup_seconds });
  const quiet = await runLoad('request', broker, { ...PAIR, seconds: seconds / 2 });
  const [beside, flood] = await hold('flood', broker, FLOOD, async (pid) => {
    // The flood represents another machine, so it must not take processor time from the healthy pair.
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
    ['longest delay of the flood, ms', (row) => report.withSpread(row.longest_hold_ms)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
    ['rounds', (row) => row.rounds.length],
  ]);
}

module.exports = { name: 'slow', title: 'Beside a receiver that reads nothing', measure, table };
