'use strict';

// The common part of the measurements of a cluster: rounds, and the processor time per message.

const report = require('../driver/report');
const { eachRound, measured } = require('../driver/rounds');
const { COSTS } = require('./system');

async function once(system, mode, options, run) {
  const { cpu_us_of_parts, ...result } = await measured(mode, system, options, run);
  return { ...result, ...system.costs(cpu_us_of_parts) };
}

/**
 * One row per rival, placement and variant. Variants differ in `group`. Ratios are relative to NATS alone.
 */
async function rowsOf(mode, variants, group, ratios, all, run) {
  const hasTopics = mode === 'fanout';
  const rivals = all.filter(
    ({ name, args }) => name === 'nats' || hasTopics === Boolean(args?.includes('--topics')),
  );
  const samples = [];
  for (const cpus of run.placements) {
    // With shared processors, only rivals with targets are measured, unless others were requested.
    const chosen =
      run.names || cpus === run.placements[0] ? rivals : rivals.filter(({ judged }) => judged);
    for (const options of variants) {
      const one = (system) => once(system, mode, options, run);
      samples.push(...(await eachRound(chosen, run.settings.rounds, cpus, one)));
    }
  }
  const groups = [group, 'cpus'];
  const fields = [...ratios, ...COSTS, 'saturation', 'others'];
  return report.compare(report.summarize(samples, groups, fields), groups, ratios, 'nats');
}

/** The columns of such a row, including its own figures. */
function columns(what, figures) {
  // A rival without brokers of a role has no figure for it.
  const cost = (role) => (row) => {
    const figure = row[`${role}_us`];
    return Number.isFinite(figure.median) ? report.withSpread(figure) : '';
  };
  return [
    ['processors', (row) => row.cpus],
    ['rival', (row) => row.rival],
    ...figures,
    [`CPU us/${what}: sender's broker`, cost('sender')],
    ["receiver's", cost('receiver')],
    ['hub', cost('hub')],
    ['other brokers', cost('idle')],
    ['all', (row) => report.withSpread(row.cpu_us_per_message)],
    ['load thread busy', (row) => report.percent(row.saturation.median)],
  ];
}

module.exports = { columns, rowsOf };
