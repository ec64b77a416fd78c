'use strict';

// The fuzzer: `npm run fuzz`, or `node fuzz/run.js --help`. See README.md beside this file.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { unitsOfSpec } = require('./spec');

const USAGE = `usage: node fuzz/run.js [options]
  --seconds N      time for all targets together, after the build (default 60)
  --target NAME    conversation, decode, framing, handshake, members or message (may be given more than once)
  --unit FILE      run this one input, with one --target
  --merge          then make the seeds of all that is known: few, and no coverage less
`;

const TARGETS = ['conversation', 'decode', 'framing', 'handshake', 'members', 'message'];

// What cargo-fuzz passes, as far as a stable compiler takes it: libFuzzer's view of each branch and
// each comparison. There is no address sanitizer among it; the core has no unsafe code.
const RUSTFLAGS = [
  '-Cpasses=sancov-module',
  '-Cllvm-args=-sanitizer-coverage-level=4',
  '-Cllvm-args=-sanitizer-coverage-inline-8bit-counters',
  '-Cllvm-args=-sanitizer-coverage-pc-table',
  '-Cllvm-args=-sanitizer-coverage-trace-compares',
  '-Cllvm-args=-simplifycfg-branch-fold-threshold=0',
];

// Bytes of an input. Longer ones find nothing that these do not, but slower.
const MAX_LENGTH = 4096;
// Seconds for one input: above the timeouts of the conversations, whose errors are more precise.
const UNIT_TIMEOUT = 60;
// MiB; nothing a short input does takes as much.
const MAX_MEMORY = 1024;
// Lines of a failed run that are shown.
const SHOWN = 60;

const folder = (...names) => path.join(__dirname, ...names);

function parse() {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '60' },
      target: { type: 'string', multiple: true, default: TARGETS },
      unit: { type: 'string' },
      merge: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const { target: targets, unit, merge, help } = values;
  const seconds = Number(values.seconds);
  if (!(seconds >= 0)) throw new Error('--seconds expects a number');
  for (const target of targets) {
    if (!TARGETS.includes(target)) throw new Error(`unknown target ${target}`);
  }
  if (unit && targets.length !== 1) throw new Error('--unit expects one --target');
  return { seconds, targets, unit, merge, help };
}

// Runs a program to its end, which must be a good one.
function run(program, args, options) {
  const { status, error, stdout } = spawnSync(program, args, { encoding: 'utf8', ...options });
  if (error) throw error;
  if (status !== 0) throw new Error(`${program} ended with ${status}`);
  return stdout;
}

// The folder of the programs, built.
function build() {
  // Named, even if it is this machine's: build scripts are then built without the flags.
  const [, host] = /^host: (.*)$/m.exec(run('rustc', ['-vV']));
  const out = folder('target');
  const args = ['build', '--profile', 'fuzz', '--target', host, '--target-dir', out];
  run('cargo', [...args, '--manifest-path', folder('Cargo.toml')], {
    stdio: 'inherit',
    env: { ...process.env, RUSTFLAGS: RUSTFLAGS.join(' ') },
  });
  return path.join(out, host, 'fuzz');
}

// One run of libFuzzer; what it had to say.
function fuzz(program, args) {
  const { status, signal, error, stderr } = spawnSync(program, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
    maxBuffer: 1 << 30,
  });
  if (error) throw error;
  return { failed: status !== 0, end: signal ?? `code ${status}`, text: stderr };
}

function report(target, text) {
  const number = (name) => Number(new RegExp(`stat::${name}: +(\\d+)`).exec(text)?.[1] ?? 0);
  const coverage = [...text.matchAll(/cov: (\d+)/g)].map(([, count]) => Number(count));
  const [first = 0, last = first] = [coverage[0], coverage.at(-1)];
  const show = (value) => value.toLocaleString('en-US');
  console.log(
    `${target.padEnd(14)}${show(number('number_of_executed_units')).padStart(12)} executions, ` +
      `${show(number('average_exec_per_sec'))}/s; coverage ${show(last)} (+${show(last - first)}), ` +
      `${show(number('new_units_added'))} new units`,
  );
}

function explain(target, { end, text }) {
  const lines = text.trimEnd().split('\n');
  const panic = lines.findIndex((line) => line.includes(' panicked at '));
  const from = panic < 0 ? Math.max(0, lines.length - SHOWN) : panic;
  console.error(lines.slice(from, from + SHOWN).join('\n'));
  console.error(`\n${target} failed (${end})`);
  const unit = /Test unit written to (.*)/.exec(text)?.[1];
  if (unit) {
    const file = path.relative(process.cwd(), unit);
    console.error(`again: npm run fuzz -- --target ${target} --unit ${file}`);
  }
}

// Starts from the seeds, from what runs before have found, and from the contract's conversations.
function explore(target, program, seconds) {
  const corpus = folder('corpus', target);
  const artifacts = folder('artifacts', target);
  for (const needed of [corpus, artifacts]) fs.mkdirSync(needed, { recursive: true });
  for (const [name, bytes] of unitsOfSpec(target)) fs.writeFileSync(path.join(corpus, name), bytes);
  const result = fuzz(program, [
    corpus,
    folder('seeds', target),
    `-dict=${folder('words.dict')}`,
    `-artifact_prefix=${artifacts}${path.sep}`,
    `-max_len=${MAX_LENGTH}`,
    `-max_total_time=${Math.max(1, Math.round(seconds))}`,
    `-rss_limit_mb=${MAX_MEMORY}`,
    `-timeout=${UNIT_TIMEOUT}`,
    '-print_final_stats=1',
  ]);
  report(target, result.text);
  if (result.failed) explain(target, result);
  return !result.failed;
}

// The fewest inputs that reach all that is reached. By branches alone: how often each is taken
// would multiply the seeds, and is soon found out again.
function merge(target, program) {
  const seeds = folder('seeds', target);
  const merged = folder('seeds', `${target}.merged`);
  fs.mkdirSync(merged, { recursive: true });
  const sources = [seeds, folder('corpus', target)];
  const flags = ['-set_cover_merge=1', '-use_counters=0', `-max_len=${MAX_LENGTH}`];
  const result = fuzz(program, [...flags, merged, ...sources]);
  if (result.failed) {
    explain(target, result);
    return false;
  }
  fs.rmSync(seeds, { recursive: true });
  fs.renameSync(merged, seeds);
  const sizes = fs.readdirSync(seeds).map((name) => fs.statSync(path.join(seeds, name)).size);
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  console.log(`${target.padEnd(14)}${sizes.length} seeds, ${bytes} bytes`);
  return true;
}

function main() {
  const { seconds, targets, unit, merge: merges, help } = parse();
  if (help) return console.log(USAGE);
  const programs = build();
  const all = (step) => targets.map((target) => step(target, path.join(programs, target)));
  const results = [];
  if (unit) {
    results.push(
      ...all((target, program) => {
        const result = fuzz(program, [`-timeout=${UNIT_TIMEOUT}`, unit]);
        if (result.failed) explain(target, result);
        else console.log(`${target} holds`);
        return !result.failed;
      }),
    );
  } else {
    if (seconds > 0) {
      results.push(...all((target, program) => explore(target, program, seconds / targets.length)));
    }
    if (merges) results.push(...all(merge));
  }
  if (results.includes(false)) process.exitCode = 1;
}

main();
