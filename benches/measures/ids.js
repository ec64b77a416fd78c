'use strict';

// What a message costs in the broker's core with few ids and with many: no sockets, no JavaScript.

const { execFile, spawnSync } = require('node:child_process');
const path = require('node:path');
const { promisify } = require('node:util');
const { integer, markdown, number, withSpread } = require('../api/cells');
const { eachRound } = require('../api/rounds');
const { summarize } = require('../driver/report');

const FOLDER = path.join(__dirname, '../ids');
const PROGRAM = path.join(FOLDER, 'target/release/wsmsgbroker-ids');
/** The first is what the others are compared with. */
const IDS = [10, 1000, 500_000];
const FIELDS = ['any_ns', 'hot_ns'];
const BUILD_TIMEOUT = 900_000;
const RUN_TIMEOUT = 60_000;

function build() {
  // Not `--locked`: the lock file names the version of the broker, too, which may be newer.
  const { error, status } = spawnSync('cargo', ['build', '--release', '--quiet'], {
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

/** Only this package has a core that can be called without sockets. */
async function measure(rivals, { settings }) {
  const ours = rivals.filter(({ name }) => name === 'wsmsgbroker').map(({ name }) => name);
  if (ours.length === 0) return [];
  build();
  const [rounds, seconds] = settings.quick ? [1, 0.2] : [settings.rounds, 0.3];
  const samples = [];
  for (let round = 0; round < rounds; round += 1) {
    for (const ids of IDS) samples.push(...(await eachRound(ours, 1, () => sample(ids, seconds))));
  }
  const rows = summarize(samples, 'ids', FIELDS);
  for (const row of rows) {
    // Of throughput, which is the other way round than of time.
    for (const field of FIELDS) row[field].ratio = rows[0][field].median / row[field].median;
  }
  return rows;
}

function table(rows) {
  const rate = ({ ratio }) => `${number(ratio)}x`;
  const cells = rows.map(({ ids, any_ns, hot_ns }) => [
    integer.format(ids),
    withSpread(any_ns),
    rate(any_ns),
    withSpread(hot_ns),
    rate(hot_ns),
  ]);
  const head = ['ids', 'ns/message to any', 'throughput', 'ns/message to 16 of them', 'throughput'];
  return markdown(head, cells);
}

module.exports = { name: 'ids', title: 'Ids', measure, table };
