'use strict';

// Who is measured, and what has to be installed or built for it.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const ROOT = path.join(__dirname, '..');
const BUN = path.join(ROOT, 'node_modules/@oven/bun-linux-x64/bin/bun');

/** A script of `brokers/`, what runs it, and whether it is measured without being asked for. */
const RIVALS = [
  { name: 'wsmsgbroker', script: 'wsmsgbroker.js' },
  { name: 'wsmsgbroker-jwt', script: 'wsmsgbroker.js', args: ['--jwt'], onRequest: true },
  { name: 'wsmsgbroker-tls', script: 'wsmsgbroker.js', args: ['--tls'], onRequest: true },
  { name: 'nats', script: 'nats.js' },
  { name: 'nats-framed', script: 'nats.js', args: ['--framed'], onRequest: true },
  { name: 'bun', script: 'bun.js', runtime: BUN },
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

function version(...folders) {
  return JSON.parse(fs.readFileSync(path.join(ROOT, ...folders, 'package.json'))).version;
}

/** Installs and builds what is missing; the lock files say what exactly. */
function prepare() {
  const wanted = JSON.parse(fs.readFileSync(path.join(ROOT, 'package.json'))).dependencies;
  const isInstalled = ([name, expected]) => {
    try {
      return version('node_modules', name) === expected;
    } catch {
      return false;
    }
  };
  if (!Object.entries(wanted).every(isInstalled)) {
    mustRun('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], ROOT);
  }
  mustRun('cargo', ['build', '--release', '--locked', '--quiet'], path.join(ROOT, 'load'));
}

/** Why a rival cannot be measured here, or nothing. */
function obstacle({ script }) {
  if (script !== 'wsmsgbroker.js') return undefined;
  const load = ['-e', 'require(process.argv[1])', path.join(ROOT, '..')];
  const { status, stderr } = spawnSync(process.execPath, load, {
    encoding: 'utf8',
    timeout: 30_000,
  });
  if (status === 0) return undefined;
  const error = stderr.split('\n').find((line) => /Error/.test(line)) ?? 'it does not load';
  return `${error} (npm run build?)`;
}

/** The rivals to run. One that is not named and cannot be run is left out, with a word. */
function choose({ names, threads }) {
  const rivals = RIVALS.filter(({ name, onRequest }) =>
    names ? names.includes(name) : !onRequest,
  );
  return rivals.filter((rival) => {
    const reason = obstacle(rival);
    if (reason && names) throw new Error(`${rival.name} cannot be measured: ${reason}`);
    if (reason) console.error(`${rival.name} is skipped: ${reason}`);
    if (threads && rival.script === 'wsmsgbroker.js') {
      rival.args = [...(rival.args ?? []), '--threads', threads];
    }
    return !reason;
  });
}

/** What exactly was measured. */
function versions() {
  return {
    node: process.versions.node,
    wsmsgbroker: version('..'),
    ws: version('node_modules', 'ws'),
    original: version('node_modules', 'wsmsgbroker'),
  };
}

module.exports = { RIVALS, choose, prepare, versions };
