'use strict';

// Cost of a message in the broker's core with few and many ids, without sockets and JavaScript.

const { execFile, spawnSync } = require('node:child_process');
const path = require('node:path');
const { promisify } = require('node:util');
const { eachRound } = require('../api/rounds');
const report = require('../driver/report');

const FOLDER = path.join(__dirname, '../ids');
const PROGRAM = path.join(__dirname, '../../target/release/wsmsgbroker-ids');
/** The others are compared with the first. */
const IDS = [10, 1000, 500_000];
const FIELDS = ['any_ns', 'hot_ns'];
const BUILD_TIMEOUT = 900_000;
const RUN_TIMEOUT = 60_000;

function build() {
  const { error, status } = spawnSync('cargo', ['build', '--release', '--locked', '--quiet'], {
    cwd: FOLDER,
    stdio: ['ignore', 'ignore', 'inherit'],
    timeout: BUILD_TIMEOUT,
  });
  if (error || status !== 0) throw new Error(`cargo build failed in ${FOLDER}`);
}

async function sample(ids, seconds) {
  const options = { timeout: RUN_TIMEOUT, killSignal: 'SIGKILL' };
  const { stdout } = await promisify(execFile)(PROGRAM, [String(ids), String(seconds)], options);
  return JSON.parse(stdout);
}

/** Only the core of this package can be called without sockets. */
async function measure(rivals, { quick, settings }) {
  const ours = rivals.filter(({ name }) => name === 'wsmsgbroker').map(({ name }) => name);
  if (ours.length === 0) return [];
  build();
  const [rounds, seconds] = quick ? [1, 0.2] : [settings.rounds, 0.3];
  const samples = [];
  for (let round = 0; round < rounds; round += 1) {
    for (const ids of IDS) samples.push(...(await eachRound(ours, 1, () => sample(ids, seconds))));
  }
  const rows = report.summarize(samples, ['ids'], FIELDS);
  for (const row of rows) {
    // Ratios of throughput, the inverse of time.
    for (const field of FIELDS) row[field].ratio = rows[0][field].median / row[field].median;
  }
  return rows;
}

function table(rows) {
  return report.table(rows, [
    ['ids', (row) => report.integer(row.ids)],
    ['ns/message to any', (row) => report.withSpread(row.any_ns)],
    ['throughput', (row) => report.times(row.any_ns)],
    ['ns/message to 16 of them', (row) => report.withSpread(row.hot_ns)],
    ['throughput', (row) => report.times(row.hot_ns)],
  ]);
}

module.exports = { name: 'ids', title: 'Ids', measure, table };
