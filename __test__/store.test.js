'use strict';

// Kept topics on the disk: receipts, a restart, and stores that cannot be opened.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('ava');
const { startServer } = require('./support/start');
const { kinds, join, failure } = require('./support/clients');

function onDisk(t, store) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-store-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return { keep: [{ topic: 'room.>', disk: true }], store: { path: folder, ...store } };
}

for (const kind of kinds) {
  test(`${kind}: a subscription recovers over a restart of the server`, async (t) => {
    const options = onDisk(t);
    let server = await startServer(t, options);
    let client = await join(t, kind, server, 'c');
    const receipt = await client.deliver('a', { topic: 'room.7' });
    t.deepEqual(receipt, { queued: 0, dropped: 0, offset: 1, stored: 'disk' });
    const { position } = await client.subscribe('room.7', { since: 'here' });
    await client.deliver('b', { topic: 'room.8' });
    await client.close();
    await server.close();
    server = await startServer(t, options);
    client = await join(t, kind, server, 'c');
    await client.deliver('c', { topic: 'room.7' });
    const subscription = await client.subscribe('room.*', { since: position });
    const taken = [];
    for await (const { message, offset } of subscription) {
      taken.push([message, offset]);
      if (taken.length === 2) break;
    }
    t.deepEqual(taken, [
      ['b', 2],
      ['c', 3],
    ]);
  });
}

test('one server at a time uses a store', async (t) => {
  const options = onDisk(t, { sync: 5, maxBytes: 1 << 20 });
  const server = await startServer(t, options);
  const { code, message } = await failure(startServer(t, options));
  t.is(code, 'ERR_WSMB_STORE');
  t.regex(message, /in use/);
  await server.close();
  await startServer(t, options);
});

test('invalid options of the store are refused', async (t) => {
  const keep = [{ topic: 'a', disk: true }];
  for (const [options, name] of [
    [{ keep }, 'keep.disk'],
    [{ store: {} }, 'store.path'],
    [{ store: 'data' }, 'store'],
    [{ store: { path: 'data', sync: 'always' } }, 'store.sync'],
    [{ store: { path: 'data', sync: 0 } }, 'store.sync'],
    [{ store: { path: 'data', maxBytes: 1 } }, 'store.maxBytes'],
    [{ keep: [{ topic: 'a', disk: 1 }], store: { path: 'data' } }, 'keep[0].disk'],
  ]) {
    const error = await failure(startServer(t, options));
    t.is(error.code, 'ERR_WSMB_OPTION', name);
    t.true(error.message.includes(`"${name}"`), error.message);
  }
});
