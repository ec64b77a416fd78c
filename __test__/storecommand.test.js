'use strict';

// The command `wsmsgbroker store`.

const { execFile } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('ava');
const { startServer } = require('./support/start');
const { join } = require('./support/clients');

const CLI = path.join(__dirname, '..', 'bin', 'wsmsgbroker.js');

/** Runs the command. */
function store(...args) {
  return new Promise((resolve) => {
    execFile(process.execPath, [CLI, 'store', ...args], (error, stdout, stderr) => {
      resolve({ code: error ? error.code : 0, stdout, stderr });
    });
  });
}

/** Starts a server with a store, and stores three messages. */
async function fill(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-store-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const keep = [{ topic: 'room.>', disk: true }];
  const server = await startServer(t, { keep, store: { path: folder } });
  const client = await join(t, 'addon', server, 'alice');
  await client.deliver({ text: 'one' }, { topic: 'room.7' });
  await client.deliver('two\n', { topic: 'room.8' });
  await client.deliver('x'.repeat(100_000), { topic: 'room.7' });
  return { folder, server };
}

const parsed = ({ stdout }) => stdout.trimEnd().split('\n').map(JSON.parse);

test('check, compact, dump and export the store of a server that has ended', async (t) => {
  const { folder, server } = await fill(t);
  await server.close();
  const checked = await store('check', folder);
  t.is(checked.code, 0, checked.stderr);
  t.regex(checked.stdout, /^room\.>: 3 messages of 2 topics, [\d,]+ bytes, 0 keys, 0 damaged$/m);
  t.regex(checked.stdout, /^intact: file of [\d,]+ bytes$/m);

  const dumped = parsed(await store('dump', folder));
  t.deepEqual(
    dumped.map(({ log, offset, topic }) => [log, offset, topic]),
    [
      ['room.>', 1, 'room.7'],
      ['room.>', 2, 'room.8'],
      ['room.>', 3, 'room.7'],
    ],
  );
  t.true(dumped.every(({ time, bytes, text }) => time > 1e12 && bytes > 40 && text === undefined));

  const exported = parsed(await store('export', folder));
  t.deepEqual(
    exported.map(({ text }) => JSON.parse(text).message),
    [{ text: 'one' }, 'two\n', 'x'.repeat(100_000)],
  );
  t.regex(exported[0].epoch, /^[0-9a-f]+$/);

  const { code, stdout } = await store('compact', folder);
  t.is(code, 0);
  const [before, after] = stdout.match(/[\d,]+(?= bytes)/g).map((n) => Number(n.replace(/,/g, '')));
  t.true(after <= before);
  t.is(fs.statSync(path.join(folder, 'messages.redb')).size, after);
  t.deepEqual(parsed(await store('export', folder)), exported);
});

test('the store of a server that runs is left alone', async (t) => {
  const { folder, server } = await fill(t);
  for (const action of ['check', 'compact', 'dump', 'export']) {
    const { code, stdout, stderr } = await store(action, folder);
    t.is(code, 1);
    t.is(stdout, '');
    t.regex(stderr, /is in use/);
  }
  await server.close();
});

test('a damaged store is reported', async (t) => {
  const { folder, server } = await fill(t);
  await server.close();
  const file = path.join(folder, 'messages.redb');
  const bytes = fs.readFileSync(file);
  bytes[bytes.indexOf('x'.repeat(100)) + 50] ^= 1;
  fs.writeFileSync(file, bytes);
  const { code, stdout, stderr } = await store('check', folder);
  t.is(code, 1);
  t.regex(stdout + stderr, /damaged|corrupt/i);
});

test('wrong arguments and folders without a store are errors', async (t) => {
  for (const args of [[], ['check'], ['repair', 'data'], ['check', 'a', 'b']]) {
    const { code, stderr } = await store(...args);
    t.is(code, 2);
    t.regex(stderr, /expected check, compact, dump or export/);
  }
  const folder = path.join(os.tmpdir(), 'wsmb-no-store');
  const { code, stderr } = await store('check', folder);
  t.is(code, 1);
  t.regex(stderr, /messages\.redb: .*(No such file|cannot find)/);
  t.false(fs.existsSync(folder));
});
