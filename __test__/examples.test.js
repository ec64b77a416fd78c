'use strict';

// What the documents show is run.

const fs = require('node:fs');
const path = require('node:path');
const { execFile } = require('node:child_process');
const { generateKeyPairSync } = require('node:crypto');
const { once } = require('node:events');
const { promisify } = require('node:util');
const test = require('ava');
const WSMsgBroker = require('..');
const { startNats } = require('./support/nats');
const { createNkey } = require('./support/nkey');
const { programs, run, compile } = require('./support/snippets');

const root = path.join(__dirname, '..');
const read = (file) => fs.readFileSync(path.join(root, file), 'utf8');

/** The code blocks of a document in this language. */
function blocks(file, language) {
  const fence = new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm');
  return [...read(file).matchAll(fence)].map(([, block]) => block);
}

test('the example of authentication prints what its document says', async (t) => {
  const script = path.join(root, 'examples', 'authentication.js');
  const { stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 60_000 });
  const [printed] = blocks('docs/authentication.md', 'text');
  t.is(stdout, printed);
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

test('the servers of docs/cluster.md are one, over the NATS that it shows', async (t) => {
  const { publicKey, seed } = createNkey();
  const [shown] = blocks('docs/cluster.md', 'text');
  const config = shown.replace(/^tls .*$/m, '').replace('UC...', publicKey);
  const { url } = await startNats(t, { config });
  const [program] = blocks('docs/cluster.md', 'js');
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
  // NATS has refused them nothing.
  for (const { states } of [one, two]) t.deepEqual(states, [['cluster', 'connected', '']]);
});

const DOCUMENTS = ['README.md', 'docs/api.md', 'docs/migrating.md'];

for (const file of DOCUMENTS) {
  for (const [line, code] of programs(file)) {
    test(`the example of ${file} in line ${line} runs`, async (t) => {
      await run(t, code);
    });
  }
}

test('the examples in TypeScript compile', (t) => {
  const { count, found } = compile(DOCUMENTS);
  t.true(count > 0);
  t.deepEqual(found, []);
});

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
