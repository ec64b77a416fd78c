'use strict';

// Many pairs with one message under way each: what arrives calls for the next, so that nothing can be
// gathered for one receiver, and every message costs a read and a write.

const report = require('../driver/report');
const { eachRound, measured } = require('../driver/rounds');

const OPTIONS = { pairs: 200, size: 100, window: 1 };
const GROUPS = ['pairs'];
const RATIOS = ['messages_per_second', 'cpu_us_per_message'];

async function measure(rivals, run) {
  const once = (broker) => measured('pairs', broker, OPTIONS, run);
  const samples = await eachRound(rivals, run.settings.rounds, run.placements[0], once);
  const rows = report.summarize(samples, GROUPS, [...RATIOS, 'saturation', 'others']);
  return report.compare(rows, GROUPS, RATIOS);
}

function table(rows) {
  return report.table(rows, [
    ['pairs', (row) => row.pairs],
    ['broker', (row) => row.rival],
    ['messages/s', (row) => report.throughput(row)],
    ['to ws8', (row) => report.times(row.messages_per_second)],
    ['CPU us/message', (row) => report.withSpread(row.cpu_us_per_message)],
    ['to ws8', (row) => report.times(row.cpu_us_per_message)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
  ]);
}

module.exports = { name: 'pairs200', title: 'Many pairs, a message at a time', measure, table };
