'use strict';

// A flow of messages: eight senders, each to a receiver of its own.

const report = require('../driver/report');
const { eachRound, measured } = require('../driver/rounds');

const PAIRS = 8;
const SIZES = [100, 1024, 16_384];
// What is under way for each pair: enough for batches to form, small enough to be no queue of
// seconds, and far from the limits at which brokers slow a sender down.
const windowOf = (size) => Math.min(512, Math.floor((1024 * 1024) / size));
const GROUPS = ['size', 'cpus'];
const RATIOS = ['messages_per_second', 'cpu_us_per_message'];

async function measure(rivals, run) {
  const samples = [];
  for (const cpus of run.placements) {
    for (const size of run.quick ? SIZES.slice(0, 1) : SIZES) {
      const options = { pairs: PAIRS, size, window: windowOf(size) };
      const once = (broker) => measured('pairs', broker, options, run);
      samples.push(...(await eachRound(rivals, run.settings.rounds, cpus, once)));
    }
  }
  const rows = report.summarize(samples, GROUPS, [...RATIOS, 'saturation', 'others']);
  return report.compare(rows, GROUPS, RATIOS);
}

function table(rows) {
  return report.table(rows, [
    ['message', (row) => `${report.integer(row.size)} B`],
    ['processors', (row) => row.cpus],
    ['broker', (row) => row.rival],
    ['messages/s', (row) => report.throughput(row)],
    ['to ws8', (row) => report.times(row.messages_per_second)],
    ['CPU us/message', (row) => report.withSpread(row.cpu_us_per_message)],
    ['to ws8', (row) => report.times(row.cpu_us_per_message)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
  ]);
}

module.exports = { name: 'pipelined', title: 'Pipelined', measure, table };
