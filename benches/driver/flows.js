'use strict';

// The common part of measurements of a flow: throughput, and processor time of the broker.

const report = require('./report');
const { eachRound, measured } = require('./rounds');

const RATIOS = ['messages_per_second', 'cpu_us_per_message'];

/**
 * One row per rival and variant. A variant has options of the load's `mode`, and `cpus` unless they are the
 * first of the run. The load prints its options, and `groups` names those that distinguish variants.
 */
async function flows(mode, variants, groups, rivals, run) {
  const samples = [];
  for (const { cpus = run.placements[0], ...options } of variants) {
    const once = (broker) => measured(mode, broker, options, run);
    samples.push(...(await eachRound(rivals, run.settings.rounds, cpus, once)));
  }
  const rows = report.summarize(samples, groups, [...RATIOS, 'saturation', 'others']);
  return report.compare(rows, groups, RATIOS);
}

/** The columns of such a row, from its broker on. */
function columns(one, many) {
  return [
    ['broker', (row) => row.rival],
    [`${many}/s`, (row) => report.throughput(row)],
    ['to ws8', (row) => report.times(row.messages_per_second)],
    [`CPU us/${one}`, (row) => report.withSpread(row.cpu_us_per_message)],
    ['to ws8', (row) => report.times(row.cpu_us_per_message)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
  ];
}

module.exports = { columns, flows };
