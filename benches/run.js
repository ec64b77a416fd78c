'use strict';

// The benchmark: `npm run bench`, or `node benches/run.js --help`. See README.md beside this file.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const { Broker, holdIdle, runLoad, separateCpus } = require('./driver/processes');
const { compare, markdown, summarize } = require('./driver/report');

const USAGE = `usage: node benches/run.js [options]
  --quick            2 short rounds: is it alive, and about how fast
  --rounds N         rounds for each figure (default 5)
  --rivals a,b       of wsmsgbroker, ws8, ws8-plain, original (default: these), wsmsgbroker-jwt,
                     wsmsgbroker-tls
  --only WHAT        pipelined, idle or request (may be given more than once)
  --threads N        worker threads of wsmsgbroker (default: its own)
  --share-cpus       let broker and load use all processors, instead of the load its own
`;

const RIVALS = [
  { name: 'wsmsgbroker', script: 'wsmsgbroker.js' },
  { name: 'wsmsgbroker-jwt', script: 'wsmsgbroker.js', args: ['--jwt'], onRequest: true },
  { name: 'wsmsgbroker-tls', script: 'wsmsgbroker.js', args: ['--tls'], onRequest: true },
  { name: 'ws8', script: 'ws8.js' },
  { name: 'ws8-plain', script: 'ws8.js', args: ['--uncorked'] },
  { name: 'original', script: 'original.js' },
];
const KINDS = ['pipelined', 'idle', 'request'];

const SIZES = [100, 1024, 16_384];
const PAIRS = 8;
// What is under way for each pair: enough for batches to form, small enough to be no queue of
// seconds, and far from the limits at which brokers slow a sender down.
const windowOf = (size) => Math.min(512, Math.floor((1024 * 1024) / size));
const CONNECTIONS = 5000;
const ASKERS = [1, 16];
const REQUEST_SIZE = 100;
// Before memory is read: time to give back what only the handshakes needed.
const SETTLE = 2000;

function parse() {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      rivals: { type: 'string' },
      only: { type: 'string', multiple: true },
      threads: { type: 'string' },
      'share-cpus': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const rounds = Number(values.rounds ?? (values.quick ? 2 : 5));
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error('--rounds expects a number');
  const only = values.only?.flatMap((text) => text.split(',')) ?? KINDS;
  const names = values.rivals?.split(',');
  for (const name of names ?? []) {
    if (!RIVALS.some((rival) => rival.name === name)) throw new Error(`unknown rival ${name}`);
  }
  for (const kind of only) {
    if (!KINDS.includes(kind)) throw new Error(`unknown kind of measurement ${kind}`);
  }
  return {
    help: values.help,
    only,
    names,
    threads: values.threads,
    settings: {
      rounds,
      idle_rounds: Math.min(rounds, values.quick ? 1 : 3),
      seconds: values.quick ? 1 : 3,
      warmup_seconds: values.quick ? 0.5 : 1,
      pairs: PAIRS,
      windows: Object.fromEntries(SIZES.map((size) => [size, windowOf(size)])),
    },
    cpus: values['share-cpus'] ? null : separateCpus(),
  };
}

function mustRun(command, args, cwd) {
  const { error, status } = spawnSync(command, args, {
    cwd,
    stdio: ['ignore', 'ignore', 'inherit'],
    timeout: 600_000,
  });
  if (error || status !== 0) throw new Error(`${command} ${args.join(' ')} failed in ${cwd}`);
}

function version(...folders) {
  return JSON.parse(fs.readFileSync(path.join(__dirname, ...folders, 'package.json'))).version;
}

/** Installs and builds what is missing; the lock files say what exactly. */
function prepare() {
  const wanted = JSON.parse(fs.readFileSync(path.join(__dirname, 'package.json'))).dependencies;
  const isInstalled = ([name, expected]) => {
    try {
      return version('node_modules', name) === expected;
    } catch {
      return false;
    }
  };
  if (!Object.entries(wanted).every(isInstalled)) {
    mustRun('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], __dirname);
  }
  const load = path.join(__dirname, 'load');
  mustRun('cargo', ['build', '--release', '--locked', '--quiet'], load);
}

/** The rivals to run. Ours is left out, with a word, while the addon has not been built. */
function choose({ names, threads }) {
  const rivals = RIVALS.filter(({ name, onRequest }) =>
    names ? names.includes(name) : !onRequest,
  );
  return rivals.filter((rival) => {
    if (rival.script !== 'wsmsgbroker.js') return true;
    if (threads) rival.args = [...(rival.args ?? []), '--threads', threads];
    const root = path.join(__dirname, '..');
    const { status, stderr } = spawnSync(
      process.execPath,
      ['-e', 'require(process.argv[1])', root],
      {
        encoding: 'utf8',
        timeout: 30_000,
      },
    );
    if (status === 0) return true;
    const reason = stderr.split('\n').find((line) => /Error/.test(line)) ?? 'it does not load';
    if (names) throw new Error(`wsmsgbroker cannot be measured: ${reason}`);
    console.error(`wsmsgbroker is skipped (npm run build?): ${reason}`);
    return false;
  });
}

/** A fresh broker for each measurement, rivals by turns, another one first in each round. */
async function eachRound(rivals, rounds, cpus, measure) {
  const samples = [];
  for (let round = 0; round < rounds; round += 1) {
    for (let turn = 0; turn < rivals.length; turn += 1) {
      const rival = rivals[(round + turn) % rivals.length];
      const broker = await Broker.start(rival, cpus);
      try {
        samples.push({ rival: rival.name, ...(await measure(broker)) });
        await broker.stop();
      } finally {
        broker.kill();
      }
      process.stderr.write('.');
    }
  }
  // Rounds alternate, tables do not: one rival below the other, in the order of the list.
  const place = (sample) => rivals.findIndex(({ name }) => name === sample.rival);
  return samples.sort((a, b) => place(a) - place(b));
}

/** Seconds that the processors have spent since boot: working at all, and taken by the host. */
function processorTime() {
  const line = fs.readFileSync('/proc/stat', 'utf8').split('\n', 1)[0];
  const [user, nice, system, , , irq, softirq, stolen] = line.split(/\s+/).slice(1).map(Number);
  return { busy: (user + nice + system + irq + softirq) / 100, stolen: stolen / 100 };
}

/** The same load twice: once to warm up, once with the broker's processor time around it. */
async function measured(mode, broker, options, { settings, cpus }) {
  await runLoad(mode, broker, { ...options, seconds: settings.warmup_seconds }, cpus);
  const [before, machine] = [broker.cpuSeconds(), processorTime()];
  const result = await runLoad(mode, broker, { ...options, seconds: settings.seconds }, cpus);
  const [after, { busy, stolen }] = [broker.cpuSeconds(), processorTime()];
  const cpu = after - before;
  // What neither broker nor load has used was not ours; it makes a figure worth less.
  const others = busy - machine.busy - cpu - result.cpu_seconds + stolen - machine.stolen;
  return {
    ...result,
    cpu_us_per_message: (cpu * 1e6) / result.messages,
    others: Math.max(0, others / result.seconds),
  };
}

async function measurePipelined(rivals, run) {
  const samples = [];
  for (const size of SIZES) {
    const options = { pairs: PAIRS, size, window: windowOf(size) };
    const measure = (broker) => measured('pairs', broker, options, run);
    samples.push(...(await eachRound(rivals, run.settings.rounds, run.cpus, measure)));
  }
  const fields = ['messages_per_second', 'cpu_us_per_message', 'saturation', 'others'];
  return compare(summarize(samples, 'size', fields), 'size', [
    'messages_per_second',
    'cpu_us_per_message',
  ]);
}

async function measureRequest(rivals, run) {
  const samples = [];
  for (const pairs of ASKERS) {
    const measure = (broker) => measured('request', broker, { pairs, size: REQUEST_SIZE }, run);
    samples.push(...(await eachRound(rivals, run.settings.rounds, run.cpus, measure)));
  }
  const fields = [
    'p50_us',
    'p99_us',
    'p999_us',
    'messages_per_second',
    'cpu_us_per_message',
    'others',
  ];
  return compare(summarize(samples, 'pairs', fields), 'pairs', ['p50_us']);
}

async function measureIdle(rivals, { settings, cpus }) {
  const connections = CONNECTIONS;
  const samples = await eachRound(rivals, settings.idle_rounds, cpus, async (broker) => {
    await sleep(SETTLE);
    const empty = await broker.memory();
    return holdIdle(broker, { connections }, cpus, async () => {
      await sleep(SETTLE);
      const full = await broker.memory();
      return {
        connections,
        empty_rss: empty.rss,
        rss_per_connection: (full.rss - empty.rss) / connections,
        pss_per_connection: (full.pss - empty.pss) / connections,
      };
    });
  });
  const fields = ['rss_per_connection', 'pss_per_connection', 'empty_rss'];
  return compare(summarize(samples, 'connections', fields), 'connections', ['rss_per_connection']);
}

async function main() {
  const run = parse();
  if (run.help) return process.stdout.write(USAGE);
  if (process.platform !== 'linux') throw new Error('the benchmark reads /proc: Linux only');
  prepare();
  const rivals = choose(run);

  const results = {
    date: new Date().toISOString().slice(0, 10),
    command: ['node benches/run.js', ...process.argv.slice(2)].join(' '),
    machine: {
      cpu: os.cpus()[0].model.trim(),
      cores: os.cpus().length,
      memory_gib: Math.round(os.totalmem() / 2 ** 30),
      system: `${os.type()} ${os.release().split('-')[0]} ${os.arch()}`,
      cpus_of: run.cpus,
    },
    versions: {
      node: process.versions.node,
      wsmsgbroker: version('..'),
      ws: version('node_modules', 'ws'),
      original: version('node_modules', 'wsmsgbroker'),
    },
    settings: run.settings,
  };
  if (run.only.includes('pipelined')) results.pipelined = await measurePipelined(rivals, run);
  if (run.only.includes('idle')) results.idle = await measureIdle(rivals, run);
  if (run.only.includes('request')) results.request = await measureRequest(rivals, run);
  process.stderr.write('\n');

  const folder = path.join(__dirname, 'results');
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'latest.json'), `${JSON.stringify(results, null, 2)}\n`);
  process.stdout.write(markdown(results));
}

main().catch((error) => {
  console.error(`\n${error.message}`);
  process.exit(1);
});
