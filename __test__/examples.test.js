'use strict';

// Runs the examples of the documents.

const fs = require('node:fs');
const path = require('node:path');
const { execFile, spawn } = require('node:child_process');
const { generateKeyPairSync } = require('node:crypto');
const { once } = require('node:events');
const { createInterface } = require('node:readline');
const { promisify } = require('node:util');
const test = require('ava');
const WSMsgBroker = require('..');
const { startNats } = require('../testkit/nats');
const { createNkey } = require('./support/nkey');
const { printed } = require('./support/printed');
const { programs, run, compile } = require('./support/snippets');

const root = path.join(__dirname, '..');
const read = (file) => fs.readFileSync(path.join(root, file), 'utf8');

/** The code blocks of a document in this language. */
function blocks(file, language) {
  const fence = new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm');
  return [...read(file).matchAll(fence)].map(([, block]) => block);
}

test('the authentication example prints the output in docs/examples.md', async (t) => {
  const script = path.join(root, 'examples', 'authentication.js');
  const { stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 60_000 });
  const [shown] = printed('authentication.js');
  t.is(stdout, shown);
});

for (const file of ['docs/limits.md', 'SECURITY.md']) {
  test(`the servers of ${file} listen`, async (t) => {
    const { publicKey } = generateKeyPairSync('ed25519');
    const pem = publicKey.export({ type: 'spki', format: 'pem' });
    // Apart from the broker, the examples use only this module, for keys.
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

test('the servers of docs/guides/cluster.md form a cluster with the NATS configuration shown there', async (t) => {
  const { publicKey, seed } = createNkey();
  const [shown] = blocks('docs/guides/cluster.md', 'text');
  const config = shown.replace(/^tls .*$/m, '').replace('UC...', publicKey);
  const { url } = await startNats(t, { config });
  const [program] = blocks('docs/guides/cluster.md', 'js');
  const start = async (name) => {
    const code = program
      .replace('port: 9042', "port: 0, host: '127.0.0.1'")
      .replace('nats://localhost:4222', url)
      .replace("name: 'one'", `name: '${name}', nkey: '${seed}'`);
    const run = new Function('require', 'console', `${code}; return server;`);
    const states = [];
    const server = run(() => WSMsgBroker, { warn: (...args) => states.push(args) });
    t.teardown(() => server.close());
    await server.ready;
    return { server, states };
  };
  const [one, two] = [await start('one'), await start('two')];
  await Promise.all([one, two].map(({ server }) => server.client.connected()));
  two.server.client.on('message', (message, response) => response.send(message));
  t.deepEqual(await one.server.request(1, 'server-two'), { from: 'server-two', message: 1 });
  const { delivered } = await two.server.deliver(1, 'server-one');
  t.deepEqual(delivered, ['server-one']);
  t.deepEqual((await two.server.cluster.ids()).ids.sort(), ['server-one', 'server-two']);
  // NATS has denied them no permission.
  for (const { states } of [one, two]) t.deepEqual(states, [['cluster', 'connected', '']]);
});

const GUIDES = fs
  .readdirSync(path.join(root, 'docs', 'guides'))
  .map((file) => `docs/guides/${file}`);
/** Guides with samples that need more than a broker. They have tests of their own. */
const OWN_TESTS = ['bundling', 'cluster', 'deployment', 'testing'].map(
  (name) => `docs/guides/${name}.md`,
);
const DOCUMENTS = [
  'README.md',
  'docs/api.md',
  ...GUIDES.filter((file) => !OWN_TESTS.includes(file)),
];

test('every guide has a sample', (t) => {
  t.true(GUIDES.length >= 10);
  for (const file of GUIDES) t.true(blocks(file, 'js').length > 0, file);
});

/** Writes the programs of a guide, each to the file named in its first line. Returns the folder. */
function writeFiles(t, guide) {
  // Inside the repository, where the package can be loaded by its name.
  fs.mkdirSync(path.join(root, 'target'), { recursive: true });
  const folder = fs.mkdtempSync(path.join(root, 'target', 'guide-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  for (const code of blocks(guide, 'js')) {
    const [, name] = /^\/\/ (\S+\.mjs)\n/.exec(code);
    fs.writeFileSync(path.join(folder, name), code);
  }
  return folder;
}

/** Runs the commands of a guide in this folder. Returns their output. */
async function runCommands(guide, folder) {
  const bin = path.join(root, 'node_modules', '.bin');
  const env = { ...process.env, PORT: '0', PATH: `${bin}${path.delimiter}${process.env.PATH}` };
  const printed = [];
  for (const command of blocks(guide, 'sh').join('').trim().split('\n')) {
    const [program, ...args] = command.replace(/^npx /, '').split(' ');
    const options = { cwd: folder, env, timeout: 60_000, shell: process.platform === 'win32' };
    printed.push((await promisify(execFile)(program, args, options)).stdout);
  }
  return printed;
}

test('the tests of docs/guides/testing.md pass', async (t) => {
  const guide = 'docs/guides/testing.md';
  const [output] = await runCommands(guide, writeFiles(t, guide));
  t.regex(output, /^# pass 4$|^ℹ pass 4$/m);
});

test('the server of docs/guides/bundling.md runs from its bundle', async (t) => {
  const guide = 'docs/guides/bundling.md';
  const printed = await runCommands(guide, writeFiles(t, guide));
  t.is(printed.at(-1), 'the broker listens\n');
});

// A program cannot handle SIGTERM on Windows.
const posix = process.platform === 'win32' ? test.skip : test;

posix('the broker of docs/guides/deployment.md is healthy and drains', async (t) => {
  const folder = writeFiles(t, 'docs/guides/deployment.md');
  const env = { ...process.env, PORT: '0', HEALTH_PORT: '0' };
  const child = spawn(process.execPath, ['broker.mjs'], { cwd: folder, env });
  const end = once(child, 'exit');
  t.teardown(() => child.kill('SIGKILL') && end);
  const [line] = await once(createInterface(child.stdout), 'line');
  const [, port, healthPort] = /port (\d+), health at port (\d+)$/.exec(line);
  const client = new WSMsgBroker('me', `ws://127.0.0.1:${port}`, { protocol: 2 });
  await client.connected();
  const response = await fetch(`http://127.0.0.1:${healthPort}`);
  t.is(response.status, 200);
  t.is((await response.json()).registered, 1);
  await client.close();
  child.kill('SIGTERM');
  t.deepEqual(await end, [0, null]);
});

for (const file of DOCUMENTS) {
  for (const [line, code] of programs(file)) {
    test(`the example of ${file} in line ${line} runs`, async (t) => {
      await run(t, code);
    });
  }
}

test('the TypeScript examples compile', (t) => {
  const { count, found } = compile(DOCUMENTS);
  t.true(count > 0);
  t.deepEqual(found, []);
});

test('the tests named in SECURITY.md exist', (t) => {
  const [, promises] = read('SECURITY.md').split('## What we promise');
  const files = promises
    .match(/`(?:tests|__test__|src|spec)\/[^`]+`/g)
    .map((name) => name.slice(1, -1));
  t.true(files.length > 20);
  for (const file of files) {
    t.true(fs.existsSync(path.join(root, file)), file);
  }
});
