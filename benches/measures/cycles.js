'use strict';

// Connections that come and go: connect, register, close, and again, 32 of them at a time.

const report = require('../driver/report');
const { eachRound, measured } = require('../driver/rounds');

const OPTIONS = { connections: 32 };
const GROUPS = ['connections'];
const RATIOS = ['messages_per_second', 'cpu_us_per_message'];

async function measure(rivals, run) {
  const once = (broker) => measured('cycles', broker, OPTIONS, run);
  const samples = await eachRound(rivals, run.settings.rounds, run.placements[0], once);
  const rows = report.summarize(samples, GROUPS, [...RATIOS, 'saturation', 'others']);
  return report.compare(rows, GROUPS, RATIOS);
}

function table(rows) {
  return report.table(rows, [
    ['at a time', (row) => row.connections],
    ['broker', (row) => row.rival],
    ['connections/s', (row) => report.throughput(row)],
    ['to ws8', (row) => report.times(row.messages_per_second)],
    ['CPU us/connection', (row) => report.withSpread(row.cpu_us_per_message)],
    ['to ws8', (row) => report.times(row.cpu_us_per_message)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
  ]);
}

module.exports = { name: 'cycles', title: 'Connections that come and go', measure, table };
