'use strict';

// `npm run bench:instructions`: counts the instructions of the micro benchmarks with Valgrind and compares
// them with benches/instructions.json. --update rewrites that file. See benches/README.md.

const fs = require('node:fs');
const path = require('node:path');
const { root, run, tool } = require('./tool');

/** Allowed increase of a count over its baseline, percent. */
const TOLERANCE = 3;

const folder = path.join(root, 'benches', 'micro');
const file = path.join(root, 'benches', 'instructions.json');

/**
 * Each benchmark with its count, its baseline and the result: `same`, `more`, `less`, `new` (without a
 * baseline) or `gone` (without a count).
 */
function compare(counts, baseline) {
  const names = new Set([...Object.keys(counts), ...Object.keys(baseline)]);
  return [...names].map((name) => {
    const [count, base] = [counts[name], baseline[name]];
    if (base === undefined) return { name, count, verdict: 'new' };
    if (count === undefined) return { name, base, verdict: 'gone' };
    const change = (100 * (count - base)) / base;
    const verdict = Math.abs(change) <= TOLERANCE ? 'same' : change > 0 ? 'more' : 'less';
    return { name, count, base, change, verdict };
  });
}

/** The counts in the output of the runner, which prints one line of JSON per benchmark. */
function parse(output) {
  const lines = output.split('\n').filter((line) => line.startsWith('{'));
  const entries = lines.map((line) => {
    const { function_name: part, id, profiles } = JSON.parse(line);
    const [{ data }] = profiles;
    return [`${part}/${id}`, Number(data.total.metrics.Ir.values.new)];
  });
  return Object.fromEntries(entries);
}

/** Runs all benchmarks. Returns their counts. */
function measure() {
  const manifest = fs.readFileSync(path.join(folder, 'Cargo.toml'), 'utf8');
  const [, version] = /^gungraun = .*"=([\d.]+)"/m.exec(manifest);
  const bench = ['bench', '--locked', '--features', 'instructions', '--bench', 'instructions'];
  const output = run('cargo', [...bench, '--', '--output-format=json', '--parallel=auto'], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 1 << 30,
    env: { ...process.env, GUNGRAUN_RUNNER: tool('gungraun-runner', version) },
  });
  return parse(output);
}

/** The target and the compiler of the counts. */
function toolchain() {
  const rustc = run('rustc', ['-vV'], { stdio: 'pipe', encoding: 'utf8' });
  const field = (name) => new RegExp(`^${name}: (.*)$`, 'm').exec(rustc)[1];
  return { target: field('host'), rustc: field('release') };
}

function print(rows) {
  const show = (count) => (count === undefined ? '-' : count.toLocaleString('en-US'));
  const percent = (change) =>
    change === undefined ? '' : `${change < 0 ? '' : '+'}${change.toFixed(2)} %`;
  const table = [
    ['benchmark', 'instructions', 'baseline', 'change', ''],
    ...rows.map(({ name, count, base, change, verdict }) => [
      name,
      show(count),
      show(base),
      percent(change),
      verdict === 'same' ? '' : verdict,
    ]),
  ];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  for (const [name, ...cells] of table) {
    const padded = cells.map((cell, column) => cell.padStart(widths[column + 1]));
    console.log([name.padEnd(widths[0]), ...padded].join('  ').trimEnd());
  }
}

function main() {
  const now = toolchain();
  const counts = measure();
  const baseline = JSON.parse(fs.readFileSync(file, 'utf8'));
  const rows = compare(counts, baseline.target === now.target ? baseline.counts : {});
  print(rows);
  if (process.argv.includes('--update')) {
    fs.writeFileSync(file, `${JSON.stringify({ ...now, counts }, null, 2)}\n`);
    return console.log(`\nwrote ${path.relative(root, file)}`);
  }
  if (baseline.target !== now.target) {
    return console.log(`\nnot compared: the baseline is for ${baseline.target}`);
  }
  if (baseline.rustc !== now.rustc) {
    console.log(`\nthe baseline was made by rustc ${baseline.rustc}, this is ${now.rustc}`);
  }
  const having = (...verdicts) => rows.filter(({ verdict }) => verdicts.includes(verdict));
  if (having('less').length > 0) {
    console.log(
      '\nfewer than the baseline: `npm run bench:instructions -- --update` makes this the new baseline',
    );
  }
  const failed = having('more', 'new', 'gone');
  if (failed.length > 0) {
    const names = failed.map(({ name, verdict }) => `${name} (${verdict})`);
    console.error(`\ndifferent from the baseline: ${names.join(', ')}`);
    process.exitCode = 1;
  }
}

module.exports = { compare, parse };

if (require.main === module) main();
