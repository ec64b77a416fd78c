'use strict';

// Requests: each asker waits for its answer before it sends the next request.

const report = require('../driver/report');
const { eachRound, measured } = require('../driver/rounds');

const ASKERS = [1, 8];
const SIZE = 100;
const RATIOS = ['p50_us', 'p99_us', 'messages_per_second', 'cpu_us_per_message'];

async function measure(rivals, run) {
  const samples = [];
  for (const pairs of run.quick ? ASKERS.slice(-1) : ASKERS) {
    const once = (broker) => measured('request', broker, { pairs, size: SIZE }, run);
    samples.push(...(await eachRound(rivals, run.settings.rounds, run.placements[0], once)));
  }
  const rows = report.summarize(samples, ['pairs'], [...RATIOS, 'p999_us', 'saturation', 'others']);
  return report.compare(rows, ['pairs'], RATIOS);
}

function table(rows) {
  return report.table(rows, [
    ['askers', (row) => row.pairs],
    ['broker', (row) => row.rival],
    ['requests/s', (row) => report.throughput(row)],
    ['to ws8', (row) => report.times(row.messages_per_second)],
    ['p50 us', (row) => report.withSpread(row.p50_us)],
    ['p99 us', (row) => report.withSpread(row.p99_us)],
    ['to ws8', (row) => report.times(row.p99_us)],
    ['p99.9 us', (row) => report.withSpread(row.p999_us)],
    ['CPU us/request', (row) => report.withSpread(row.cpu_us_per_message)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
  ]);
}

module.exports = { name: 'request', title: 'Request and answer', measure, table };
