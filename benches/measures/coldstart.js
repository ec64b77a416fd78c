'use strict';

// From `require` to a server that listens, in a fresh process.

const { markdown, times, withSpread } = require('../api/cells');
const Process = require('../api/process');
const { choose, eachRound } = require('../api/rounds');
const { compare, summarize } = require('../driver/report');

const RIVALS = ['wsmsgbroker', 'ws8', 'original', 'socketio'];
/** More than of other measures: each takes a moment only. */
const ROUNDS = 10;

async function sample(rival) {
  const process = new Process('coldstart.js', rival);
  try {
    return { to: 'listening', ...(await process.next()) };
  } finally {
    process.kill();
  }
}

async function measure(rivals, { settings }) {
  const rounds = settings.quick ? 2 : ROUNDS;
  const samples = await eachRound(choose(rivals, RIVALS), rounds, sample);
  return compare(summarize(samples, 'to', ['ms']), 'to', ['ms']);
}

function table(rows) {
  const cells = rows.map(({ rival, ms }) => [rival, withSpread(ms), times(ms)]);
  return markdown(['rival', 'ms', 'to ws8'], cells);
}

module.exports = { name: 'coldstart', title: 'Cold start', measure, table };
