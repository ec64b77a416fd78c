'use strict';

// The output of the programs in examples/ must match docs/examples.md. Those with pages are in
// browser/examples.test.js.

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

/** Runs Node.js with these arguments. Resolves with its output. */
async function run(args, { env, cwd = root } = {}) {
  const options = { cwd, env: { ...process.env, ...env }, timeout: 60_000 };
  const { stdout } = await promisify(execFile)(process.execPath, args, options);
  return stdout;
}

for (const [name, env] of [
  ['workers.js'],
  ['jobs.js'],
  ['topics.js'],
  // Enough time for every responder.
  ['gather.js', { TIMEOUT: '3000' }],
]) {
  test(`the example ${name} prints the output in docs/examples.md`, async (t) => {
    const [shown] = printed(name);
    t.is(await run([`examples/${name}`], { env }), shown);
  });
}

// The frameworks are packages of that folder, not of the repository.
const NODE_PATH = path.join(__dirname, 'neighbours', 'node_modules');
for (const name of ['express.js', 'fastify.js', 'nest.js', 'vite.js']) {
  test(`the example http/${name} prints the output in docs/examples.md`, async (t) => {
    const [shown] = printed(`http/${name}`);
    const env = { NODE_PATH, PORT: await lastingPort(t) };
    t.is(await run([`examples/http/${name}`], { env }), shown);
  });
}

test('a version 1 program prints the same with either version', async (t) => {
  const [shown] = printed('original.js');
  const env = { PORT: await lastingPort(t) };
  t.is(await run(['examples/original.js'], { env }), shown);
  // The module name resolves to 1.7.2 in this folder.
  const cwd = path.join(__dirname, 'original');
  t.is(await run(['-e', read('examples/original.js')], { cwd, env }), shown);
});

test('the TypeScript example compiles and prints the output in docs/examples.md', async (t) => {
  t.is(await run([require.resolve('typescript/bin/tsc'), '-p', 'examples/typescript']), '');
  const program = read('examples/typescript/program.mts');
  const { outputText } = ts.transpileModule(program, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
  });
  const [shown] = printed('typescript/program.mts');
  t.is(await run(['--input-type=module', '-e', outputText]), shown);
});

test('the cluster demo prints the output in docs/examples.md and confirms its promises', async (t) => {
  const [shown] = printed('cluster/demo.js');
  // Replaces counts, durations and the time at which the broker was killed.
  const general = (text) =>
    text.replace(/\d+/g, 'N').replace(/N failed(?: with [A-Z_]+(?:, [A-Z_]+)*)?;/, 'N failed;');
  t.is(general(await run(['examples/cluster/demo.js'])), general(shown));
});

test('the demo runs to its end', async (t) => {
  const lines = (await run(['examples/demo.js'])).trim().split('\n');
  t.is(lines.at(-1), 'demo     is done: every message arrived');
});
