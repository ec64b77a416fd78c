'use strict';

// The programs of examples/ print what docs/examples.md shows; those with pages are in browser/examples.test.js.

const fs = require('node:fs');
const path = require('node:path');
const { execFile } = require('node:child_process');
const { promisify } = require('node:util');
const test = require('ava');
const ts = require('typescript');
const { lastingPort } = require('../testkit/ports');
const { printed } = require('./support/printed');

const root = path.join(__dirname, '..');
const read = (file) => fs.readFileSync(path.join(root, file), 'utf8');

/** Runs Node.js with these arguments; resolves with what it prints. */
async function run(args, { env, cwd = root } = {}) {
  const options = { cwd, env: { ...process.env, ...env }, timeout: 60_000 };
  const { stdout } = await promisify(execFile)(process.execPath, args, options);
  return stdout;
}

for (const [name, env] of [
  ['workers.js'],
  // Time enough for all that are to answer.
  ['gather.js', { TIMEOUT: '3000' }],
]) {
  test(`the example ${name} prints what docs/examples.md says`, async (t) => {
    const [shown] = printed(name);
    t.is(await run([`examples/${name}`], { env }), shown);
  });
}

test('a program of version 1 prints the same with either version', async (t) => {
  const [shown] = printed('original.js');
  const env = { PORT: await lastingPort(t) };
  t.is(await run(['examples/original.js'], { env }), shown);
  // In this folder the name of the module means 1.7.2.
  const cwd = path.join(__dirname, 'original');
  t.is(await run(['-e', read('examples/original.js')], { cwd, env }), shown);
});

test('the example in TypeScript has no errors, and prints what docs/examples.md says', async (t) => {
  t.is(await run([require.resolve('typescript/bin/tsc'), '-p', 'examples/typescript']), '');
  const program = read('examples/typescript/program.mts');
  const { outputText } = ts.transpileModule(program, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
  });
  const [shown] = printed('typescript/program.mts');
  t.is(await run(['--input-type=module', '-e', outputText]), shown);
});

test('the demo of a cluster shows what docs/examples.md says, and that what is promised held', async (t) => {
  const [shown] = printed('cluster/demo.js');
  // How many, how long, and where in between it was when the broker was killed.
  const general = (text) =>
    text.replace(/\d+/g, 'N').replace(/N failed(?: with [A-Z_]+(?:, [A-Z_]+)*)?;/, 'N failed;');
  t.is(general(await run(['examples/cluster/demo.js'])), general(shown));
});

test('the demo comes to its end', async (t) => {
  const lines = (await run(['examples/demo.js'])).trim().split('\n');
  t.is(lines.at(-1), 'demo     is done: every message arrived');
});
