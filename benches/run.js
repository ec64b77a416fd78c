'use strict';

// The benchmark: `npm run bench`, or `node benches/run.js --help`. See README.md beside this file.

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { machine, today } = require('../testkit/report');
const { PINNED } = require('./driver/processes');
const { charts } = require('./driver/plot');
const { markdown } = require('./driver/report');
const cluster = require('./cluster');
const { RIVALS, choose, prepare, versions } = require('./driver/rivals');
const { targets } = require('./driver/targets');

// In the order of execution and of the report.
const measures = [
  'pipelined',
  'pairs200',
  'request',
  'fanout',
  'idle',
  'cycles',
  'slow',
  'stall',
  'growth',
  'api',
  'coldstart',
  'ids',
].map((name) => require(`./measures/${name}`));

const wire = { file: 'latest', measures, rivals: RIVALS, choose, versions, targets };
const suite = process.argv.includes('--cluster') ? cluster : wire;

const list = (items) => items.map(({ name }) => name).join(', ');
const USAGE = `usage: node benches/run.js [options]
  --quick            2 short rounds, for rough figures
  --rounds N         rounds for each figure (default 5)
  --rivals a,b       of ${list(suite.rivals.filter((rival) => !rival.onRequest))}
                     (default: these), ${list(suite.rivals.filter((rival) => rival.onRequest))}
  --only WHAT        of ${list(suite.measures)}
                     (may be given more than once)
  --threads N        worker threads of wsmsgbroker (default: that of the package)
  --share-cpus       broker and load on all processors in every measurement
  --cluster          clusters instead of a single broker (with --help: their rivals and measurements)
`;

function parse() {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      rivals: { type: 'string' },
      only: { type: 'string', multiple: true },
      threads: { type: 'string' },
      'share-cpus': { type: 'boolean', default: false },
      cluster: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const rounds = Number(values.rounds ?? (values.quick ? 2 : 5));
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error('--rounds expects a number');
  const only =
    values.only?.flatMap((text) => text.split(',')) ?? suite.measures.map(({ name }) => name);
  const names = values.rivals?.split(',');
  for (const name of names ?? []) {
    if (!suite.rivals.some((rival) => rival.name === name))
      throw new Error(`unknown rival ${name}`);
  }
  for (const name of only) {
    if (!suite.measures.some((measure) => measure.name === name)) {
      throw new Error(`unknown kind of measurement ${name}`);
    }
  }
  return {
    help: values.help,
    quick: values.quick,
    measures: suite.measures.filter(({ name }) => only.includes(name)),
    names,
    threads: values.threads,
    // Placements of broker and load. Measures with one placement use the first.
    placements: PINNED && !values['share-cpus'] ? ['pinned', 'shared'] : ['shared'],
    settings: {
      rounds,
      seconds: values.quick ? 0.4 : 1,
      warmup_seconds: values.quick ? 0.2 : 0.8,
    },
  };
}

async function main() {
  const run = parse();
  if (run.help) return process.stdout.write(USAGE);
  if (process.platform !== 'linux') throw new Error('the benchmark reads /proc: Linux only');
  prepare();
  const rivals = suite.choose(run);

  const results = {
    date: today(),
    command: ['node benches/run.js', ...process.argv.slice(2)].join(' '),
    machine: {
      ...machine(),
      measured: suite.measured,
      cpus_of: run.placements[0] === 'pinned' ? PINNED : null,
    },
    versions: suite.versions(),
    settings: run.settings,
  };
  for (const { name, measure } of run.measures) {
    const start = performance.now();
    process.stderr.write(`${name} `);
    const meant = rivals.filter(({ only }) => run.names || !only || only.includes(name));
    results[name] = await measure(meant, run);
    process.stderr.write(` ${((performance.now() - start) / 1000).toFixed(0)} s\n`);
  }

  const folder = path.join(__dirname, 'results');
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(
    path.join(folder, `${suite.file}.json`),
    `${JSON.stringify(results, null, 2)}\n`,
  );
  for (const [name, svg] of Object.entries(charts(results))) {
    fs.writeFileSync(path.join(folder, name), svg);
  }
  const tables = `${markdown(results, run.measures)}\n${suite.targets(results)}\n`;
  fs.writeFileSync(path.join(folder, `${suite.file}.md`), tables);
  process.stdout.write(tables);
}

main().catch((error) => {
  console.error(`\n${error.message}`);
  process.exit(1);
});
