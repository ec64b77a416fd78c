'use strict';

// What the documents show is run.

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { execFile } = require('node:child_process');
const { generateKeyPairSync } = require('node:crypto');
const { once } = require('node:events');
const { promisify } = require('node:util');
const test = require('ava');
const ts = require('typescript');
const WSMsgBroker = require('..');
const { printed } = require('./support/printed');

const root = path.join(__dirname, '..');
const read = (file) => fs.readFileSync(path.join(root, file), 'utf8');

/** The code blocks of a document in this language. */
function blocks(file, language) {
  const fence = new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm');
  return [...read(file).matchAll(fence)].map(([, block]) => block);
}

/** Runs Node.js with these arguments; resolves with what it prints. */
async function run(args, { env, cwd = root } = {}) {
  const options = { cwd, env: { ...process.env, ...env }, timeout: 60_000 };
  const { stdout } = await promisify(execFile)(process.execPath, args, options);
  return stdout;
}

test('the example of authentication prints what its document says', async (t) => {
  const [shown] = blocks('docs/authentication.md', 'text');
  t.is(await run(['examples/authentication.js']), shown);
});

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

/** Runs a program on a free port of its own; another one if somebody has taken it in between. */
async function runOnPort(args, options) {
  for (;;) {
    const server = net.createServer().listen(0);
    await once(server, 'listening');
    const { port } = server.address();
    server.close();
    await once(server, 'close');
    try {
      return await run(args, { ...options, env: { PORT: port } });
    } catch (error) {
      if (!error.stderr.includes('EADDRINUSE')) throw error;
    }
  }
}

test('a program of version 1 prints the same with either version', async (t) => {
  const [shown] = printed('original.js');
  t.is(await runOnPort(['examples/original.js']), shown);
  // In this folder the name of the module means 1.7.2.
  const cwd = path.join(__dirname, 'original');
  t.is(await runOnPort(['-e', read('examples/original.js')], { cwd }), shown);
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

test('the demo comes to its end', async (t) => {
  const lines = (await run(['examples/demo.js'])).trim().split('\n');
  t.is(lines.at(-1), 'demo     is done: every message arrived');
});

for (const file of ['docs/authentication.md', 'docs/limits.md', 'SECURITY.md']) {
  test(`the servers of ${file} listen`, async (t) => {
    const { publicKey } = generateKeyPairSync('ed25519');
    const pem = publicKey.export({ type: 'spki', format: 'pem' });
    // The only module that they use, but for the broker: it brings keys.
    const modules = { wsmsgbroker: WSMsgBroker, 'node:fs': { readFileSync: () => pem } };
    const programs = blocks(file, 'js').filter((block) => block.includes('const server ='));
    t.true(programs.length > 0);
    for (const program of programs) {
      const code = program.replace('port: 9042', "port: 0, host: '127.0.0.1'");
      const start = new Function('require', `${code}; return server;`);
      const server = start((name) => modules[name]);
      await once(server, 'listening');
      await server.close();
    }
  });
}

test('the tests that SECURITY.md names are there', (t) => {
  const [, promises] = read('SECURITY.md').split('## What we promise');
  const files = promises
    .match(/`(?:tests|__test__|src|spec)\/[^`]+`/g)
    .map((name) => name.slice(1, -1));
  t.true(files.length > 20);
  for (const file of files) {
    t.true(fs.existsSync(path.join(root, file)), file);
  }
});
