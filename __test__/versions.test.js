'use strict';

// Version 2 clients with version 1 servers and peers, including 1.7.2, and version 1 clients.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const { WSMsgBroker, startServer, startClient } = require('./support/start');
const {
  kinds,
  urlOf,
  open,
  join,
  answering,
  settled,
  failure,
  awaited,
} = require('./support/clients');

/** A 1.7.2 server in a process of its own, which its timers keep alive. */
async function startOriginal(t) {
  const program = `
    const { WSMsgBroker } = require('./original');
    const { _server: socket } = new WSMsgBroker.Server(0, '/').wss;
    socket.once('listening', () => process.send(socket.address().port));`;
  const child = spawn(process.execPath, ['-e', program], {
    cwd: __dirname,
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  t.teardown(() => child.kill());
  const [port] = await once(child, 'message');
  return `ws://127.0.0.1:${port}/`;
}

for (const kind of kinds) {
  test(`${kind}: a version 1 peer can answer requests, but not reject or see a rejection`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const old = await startClient(t, server, 'old', { protocol: 1 });
    old.on('message', (message, response) => {
      t.throws(() => response.reject('no'), { code: 'ERR_WSMB_NOT_NEGOTIATED' });
      response.send(message + 1);
    });
    t.deepEqual(await client.request(1, 'old'), { from: 'old', message: 2 });
    client.on('message', (_message, response) => response.reject('no'));
    const error = once(old, 'error');
    old.send(1, 'client', () => t.fail('no answer'));
    t.is((await error)[0].code, 'ERR_WSMB_ANSWER');
  });

  test(`${kind}: version 2 methods fail with a code in version 1`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client', { protocol: 1 });
    await answering(t, kind, server, 'answerer', (response, n) => response.send(n + 1));
    t.deepEqual(await client.request(1, 'answerer'), { from: 'answerer', message: 2 });
    t.is((await failure(client.request(1, 'nobody', { timeout: 20 }))).code, 'TIMEOUT');
    t.is((await failure(client.deliver(1, 'a'))).code, 'ERR_WSMB_NOT_NEGOTIATED');
    t.is((await failure(client.requestAll(1, ['a']))).code, 'ERR_WSMB_NOT_NEGOTIATED');
    t.is(awaited(client), 0);
  });

  test(`${kind}: a version 1 server is detected because it announces no version`, async (t) => {
    const url = await startOriginal(t);
    const client = open(t, kind, 'client', url);
    const early = [client.deliver(1, 'answerer'), client.requestAll(1, ['answerer'])].map(failure);
    for (const { code } of await Promise.all(early)) t.is(code, 'ERR_WSMB_NOT_NEGOTIATED');
    t.is((await failure(client.deliver(1, 'a'))).code, 'ERR_WSMB_NOT_NEGOTIATED');
    const answerer = await open(t, kind, 'answerer', url).connected();
    answerer.on('message', (n, response) => response?.send(n + 1));
    t.deepEqual(await client.request(1, 'answerer'), { from: 'answerer', message: 2 });
    t.is((await failure(client.request(1, 'nobody', { timeout: 20 }))).code, 'TIMEOUT');
    t.is(awaited(client), 0);
  });
}

test('a 1.7.2 client among version 2 clients receives no unknown frames', async (t) => {
  const { WSMsgBroker: Original } = require('./original');
  const server = await startServer(t, { ackTimeout: 200, maxDest: 2 });
  const { port } = server.address();
  const client = await join(t, 'addon', server, 'client');
  const old = new Original('old', '127.0.0.1', port, '/');
  const frames = [];
  const closed = new Promise((resolve) => old.on('close', resolve));
  await once(old, 'open');
  old.conn.on('message', (text) => frames.push(JSON.parse(text)));
  await once(old, 'registered');

  // It answers one request. Another one is never answered, and is cancelled.
  old.on('message', (message, response) => message === 'answer' && response.send('fine'));
  t.deepEqual(await client.request('answer', 'old'), { from: 'old', message: 'fine' });
  t.is((await failure(client.request('wait', 'old', { timeout: 20 }))).code, 'TIMEOUT');
  // Its requests are rejected, exceed a limit, go to an unknown id, or are never answered.
  client.on('message', (message, response) => message === 'refuse' && response.reject('no'));
  const faults = [];
  old.on('error', (error) => faults.push(error.message));
  old.send('wait', 'client', () => t.fail('answered'));
  old.send('wait', ['a', 'b', 'c']);
  old.send('wait', 'nobody', () => t.fail('answered'));
  await settled(server);
  old.send('refuse', 'client', () => t.fail('answered'));
  while (faults.length === 0) await new Promise(setImmediate);
  t.deepEqual(faults, ['Unable to parse "answer" message (msg.from or msg.message are undefined)']);
  // It loses its id, and the server drains.
  await join(t, 'addon', server, 'old');
  await server.close({ drain: 1000 });
  await closed;
  t.deepEqual(
    frames.map((frame) => Object.keys(frame).join()),
    ['action,id', 'action,message,ack,from', 'action,message,ack,from', 'action,ack,from'],
  );
});

test('a client of the addon offers version 2 by default', async (t) => {
  const server = await startServer(t);
  const client = new WSMsgBroker('client', urlOf(server));
  t.teardown(() => client.close());
  await client.connected();
  t.deepEqual((await client.deliver(1, [])).delivered, []);
});
