'use strict';

// Memory that messages of others use in the heap of a program.

const path = require('node:path');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const { WebSocket } = require('ws');
const { startServer } = require('./support/start');
const { join, urlOf, failure } = require('./support/clients');

const PROGRAM = path.join(__dirname, 'payload', 'program.js');

/** Runs a program with a heap of this many MiB. Returns its output, parsed as JSON. */
async function run(t, name, heap) {
  const args = [`--max-old-space-size=${heap}`, PROGRAM, name];
  const program = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  t.teardown(() => program.kill('SIGKILL'));
  const texts = ['', ''];
  [program.stdout, program.stderr].forEach((stream, n) => {
    stream.on('data', (text) => {
      texts[n] += text;
    });
  });
  const [code, signal] = await once(program, 'close');
  t.is(code ?? signal, 0, texts[1]);
  return JSON.parse(texts[0]);
}

test('a message that would use much of the heap once parsed does not reach a server', async (t) => {
  const answers = [
    ['large', 'ERR_WSMB_MAX_PAYLOAD'],
    ['small', undefined],
  ];
  t.deepEqual(await run(t, 'participant', 64), [JSON.parse(JSON.stringify(answers)), 2]);
});

test('a message that would use most of the heap once parsed does not reach a client', async (t) => {
  t.deepEqual(await run(t, 'client', 64), ['small', 1]);
});

test('a stream applies backpressure before its messages use too much of the heap, and loses none', async (t) => {
  t.deepEqual(await run(t, 'stream', 128), [101, 0]);
});

test('a stream holds back messages while an answer after them is pending, and loses none', async (t) => {
  t.deepEqual(await run(t, 'asking', 128), [101, 'answer']);
});

test('requests whose acks have short names and long texts do not fill the heap', async (t) => {
  t.is(await run(t, 'acks', 160), 20_000);
});

test('the answers to one question do not fill the heap together', async (t) => {
  const code = 'ERR_WSMB_MAX_PAYLOAD';
  const large = [true, 30, code];
  const refused = [false, 30, 'ERR_WSMB_REJECTED', code];
  const found = [[large, large], refused, [true, 30]];
  t.deepEqual(await run(t, 'answers', 128), [...found, ...found]);
});

test('no member of a frame fills the heap of a client', async (t) => {
  t.deepEqual(await run(t, 'members', 128), ['small', true]);
});

test('a server accepts messages and answers up to clientMaxPayload, and rejects larger ones', async (t) => {
  const server = await startServer(t, { clientMaxPayload: 1000 });
  await server.client.connected();
  const client = await join(t, 'addon', server, 'client');
  const errors = [];
  server.client.on('error', ({ code }) => errors.push(code));
  server.client.on('message', (message, response) => response.send(message.length));
  client.on('message', (length, response) => response.send('x'.repeat(length)));
  t.is((await client.request('x'.repeat(998), 'server')).message, 998);
  const refused = await failure(client.request('x'.repeat(999), 'server'));
  t.deepEqual([refused.code, refused.from], ['ERR_WSMB_MAX_PAYLOAD', 'server']);
  t.is((await server.request(998, 'client')).message.length, 998);
  t.is((await failure(server.request(999, 'client'))).code, 'ERR_WSMB_MAX_PAYLOAD');
  const { answers, failed } = await server.requestAll(999, ['client']);
  t.deepEqual([answers.size, failed.get('client').code], [0, 'ERR_WSMB_MAX_PAYLOAD']);
  t.deepEqual(errors, ['ERR_WSMB_MAX_PAYLOAD']);
  t.is(server.client.peerErrors, 1);
  t.like(server.stats(), { connections: 1, pending: 0 });
});

test('a rejection that is too large is still a rejection, and a message without an ack costs nothing', async (t) => {
  const server = await startServer(t, { clientMaxPayload: 1000 });
  const peer = new WebSocket(urlOf(server));
  t.teardown(() => peer.terminate());
  await once(peer, 'open');
  peer.send('{"action":"register","id":"peer","protocol":2}');
  await once(peer, 'message');
  await server.client.connected();
  peer.on('message', (text) => {
    const { action, ack } = JSON.parse(text);
    if (action === 'message') {
      peer.send(`{"action":"answer","ack":"${ack}","error":${JSON.stringify('x'.repeat(2000))}}`);
    }
  });
  t.is((await failure(server.request(1, 'peer'))).code, 'ERR_WSMB_MAX_PAYLOAD');
  peer.send(`{"action":"send","message":"${'x'.repeat(2000)}","dest":"server"}`);
  const heard = new Promise((resolve) => server.client.on('message', resolve));
  peer.send('{"action":"send","message":"small","dest":"server"}');
  t.is(await heard, 'small');
  t.is(server.client.peerErrors, 1);
});
