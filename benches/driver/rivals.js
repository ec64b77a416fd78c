'use strict';

// The rivals, and their installation.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { natsVersion } = require('./nats');

const ROOT = path.join(__dirname, '..');
const BUN = path.join(ROOT, 'node_modules/@oven/bun-linux-x64/bin/bun');
const INSTALL_NATS = path.join(ROOT, '../scripts/nats.js');
const NO_NATS = 'there is no nats-server: `node scripts/nats.js` installs one into target/nats/';

/** A script of `brokers/`, its runtime, and whether it is measured only on request. */
const RIVALS = [
  { name: 'wsmsgbroker', script: 'wsmsgbroker.js' },
  // Publishes to a topic, where the former sends to an array of ids.
  { name: 'wsmsgbroker-topic', script: 'wsmsgbroker.js', args: ['--topics'], only: ['fanout'] },
  { name: 'wsmsgbroker-jwt', script: 'wsmsgbroker.js', args: ['--jwt'], onRequest: true },
  { name: 'wsmsgbroker-tls', script: 'wsmsgbroker.js', args: ['--tls'], onRequest: true },
  {
    name: 'wsmsgbroker-attached',
    script: 'wsmsgbroker.js',
    args: ['--attach', 'native'],
    onRequest: true,
  },
  {
    name: 'wsmsgbroker-bridged',
    script: 'wsmsgbroker.js',
    args: ['--attach', 'bridge'],
    onRequest: true,
  },
  { name: 'nats', script: 'nats.js' },
  { name: 'nats-framed', script: 'nats.js', args: ['--framed'], onRequest: true },
  { name: 'bun', script: 'bun.js', runtime: BUN },
  // Only where the queue of the former is an improvement.
  { name: 'bun-plain', script: 'bun.js', args: ['--unqueued'], runtime: BUN, only: ['pipelined'] },
  { name: 'ws8-corked', script: 'ws8-corked.js' },
  { name: 'ws8', script: 'ws8.js' },
  { name: 'socketio', script: 'socketio.js' },
  { name: 'original', script: 'original.js' },
];

function run(command, args, cwd) {
  return spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 600_000,
  });
}

function mustRun(command, args, cwd) {
  const { error, status } = run(command, args, cwd);
  if (error || status !== 0) throw new Error(`${command} ${args.join(' ')} failed in ${cwd}`);
}

/** The version of the package in a folder, or undefined. */
function version(...folders) {
  const file = path.join(ROOT, ...folders, 'package.json');
  return fs.existsSync(file) ? JSON.parse(fs.readFileSync(file)).version : undefined;
}

/** Installs and builds missing programs. Lock files determine the versions. */
function prepare() {
  const wanted = JSON.parse(fs.readFileSync(path.join(ROOT, 'package.json'))).dependencies;
  const isInstalled = ([name, expected]) => version('node_modules', name) === expected;
  if (!Object.entries(wanted).every(isInstalled)) {
    mustRun('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], ROOT);
  }
  mustRun('cargo', ['build', '--release', '--locked', '--quiet'], path.join(ROOT, 'load'));
  fetchNats();
}

/** Installs the measured version of nats-server. If that fails, the one of the system is used. */
function fetchNats() {
  run(process.execPath, [INSTALL_NATS], ROOT);
}

/** The reason why wsmsgbroker cannot be loaded, or undefined. */
function missingAddon() {
  const load = ['-e', 'require(process.argv[1])', path.join(ROOT, '..')];
  const { status, stderr } = spawnSync(process.execPath, load, {
    encoding: 'utf8',
    timeout: 30_000,
  });
  if (status === 0) return undefined;
  const error = stderr.split('\n').find((line) => /Error/.test(line)) ?? 'it does not load';
  return `${error} (npm run build?)`;
}

/** The reason why a rival cannot be measured here, or undefined. */
function obstacle({ script, runtime }) {
  if (script === 'wsmsgbroker.js') return missingAddon();
  if (script === 'nats.js' && !natsVersion()) return NO_NATS;
  if (runtime && spawnSync(runtime, ['--version']).status !== 0) return `${runtime} does not run`;
  return undefined;
}

/** The named rivals, or all that are not on request, with the options of the command line. */
function meant(rivals, { names, threads }) {
  const chosen = rivals.filter(({ name, onRequest }) =>
    names ? names.includes(name) : !onRequest,
  );
  return chosen.map(({ args = [], ...rival }) => {
    const more = threads && rival.script === 'wsmsgbroker.js' ? ['--threads', threads] : [];
    return { ...rival, args: [...args, ...more] };
  });
}

/** The rivals to run. Unavailable ones are omitted with a message, unless they were named. */
function choose(run) {
  return meant(RIVALS, run).filter((rival) => {
    const reason = obstacle(rival);
    if (reason && run.names) throw new Error(`${rival.name} cannot be measured: ${reason}`);
    if (reason) console.error(`${rival.name} is skipped: ${reason}`);
    return !reason;
  });
}

/** The measured versions. */
function versions() {
  const all = {
    node: process.versions.node,
    wsmsgbroker: version('..'),
    nats: natsVersion(),
    bun: version('node_modules', '@oven/bun-linux-x64'),
    ws: version('node_modules', 'ws'),
    'socket.io': version('node_modules', 'socket.io'),
    original: version('node_modules', 'wsmsgbroker'),
  };
  return known(all);
}

const known = (all) =>
  Object.fromEntries(Object.entries(all).filter(([, version]) => version !== undefined));

module.exports = {
  NO_NATS,
  RIVALS,
  choose,
  known,
  meant,
  missingAddon,
  prepare,
  version,
  versions,
};
