'use strict';

// One sender, many receivers, and each gets every message: an array of ids, a subject, or a room.

const report = require('../driver/report');
const { eachRound, measured } = require('../driver/rounds');

const SIZE = 100;
// How many messages may be under way until the last receiver has them.
const WINDOWS = { 100: 32, 1000: 8 };
const GROUPS = ['receivers'];
const RATIOS = ['messages_per_second', 'cpu_us_per_message'];

async function measure(rivals, run) {
  const samples = [];
  for (const [receivers, window] of Object.entries(WINDOWS).slice(0, run.quick ? 1 : undefined)) {
    const options = { receivers: Number(receivers), size: SIZE, window };
    const once = (broker) => measured('fanout', broker, options, run);
    samples.push(...(await eachRound(rivals, run.settings.rounds, run.placements[0], once)));
  }
  const rows = report.summarize(samples, GROUPS, [...RATIOS, 'saturation', 'others']);
  return report.compare(rows, GROUPS, RATIOS);
}

function table(rows) {
  return report.table(rows, [
    ['receivers', (row) => report.integer(row.receivers)],
    ['broker', (row) => row.rival],
    ['deliveries/s', (row) => report.throughput(row)],
    ['to ws8', (row) => report.times(row.messages_per_second)],
    ['CPU us/delivery', (row) => report.withSpread(row.cpu_us_per_message)],
    ['to ws8', (row) => report.times(row.cpu_us_per_message)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
  ]);
}

module.exports = { name: 'fanout', title: 'Fan-out', measure, table };
