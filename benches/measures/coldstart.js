'use strict';

// Measures the time from `require` to a listening server in a fresh process.

const Process = require('../api/process');
const { choose, eachRound } = require('../api/rounds');
const report = require('../driver/report');

const RIVALS = ['wsmsgbroker', 'ws8', 'original', 'socketio'];
const GROUPS = ['to'];
/** More rounds than other measures, because each is short. */
const ROUNDS = 10;

async function sample(rival) {
  const child = new Process('coldstart.js', rival);
  try {
    return { to: 'listening', ...(await child.next()) };
  } finally {
    child.kill();
  }
}

async function measure(rivals, { quick }) {
  const rounds = quick ? 2 : ROUNDS;
  const samples = await eachRound(choose(rivals, RIVALS), rounds, sample);
  return report.compare(report.summarize(samples, GROUPS, ['ms']), GROUPS, ['ms']);
}

function table(rows) {
  return report.table(rows, [
    ['API', (row) => row.rival],
    ['ms', (row) => report.withSpread(row.ms)],
    ['to ws8', (row) => report.times(row.ms)],
    ['rounds', (row) => row.rounds.length],
  ]);
}

module.exports = { name: 'coldstart', title: 'Cold start', measure, table };
