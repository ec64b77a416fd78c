'use strict';

// Addresses that a client accepts, and what it makes of each part; texts that are no address.

const net = require('node:net');
const { once } = require('node:events');
const test = require('ava');
const { WSMsgBroker, startServer } = require('./support/start');

/** The request heads of clients that connect to a port of 127.0.0.1. */
async function startRecorder(t) {
  const heads = [];
  const listener = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (head) => {
      heads.push(String(head));
      socket.destroy();
    });
  });
  listener.listen(0, '127.0.0.1');
  t.teardown(() => listener.close());
  await once(listener, 'listening');
  return { port: listener.address().port, heads };
}

/** The lines of the request that a client sends. */
async function requestOf(recorder, ...args) {
  const client = new WSMsgBroker('a', ...args);
  client.on('error', () => {});
  await new Promise((resolve) => client.on('close', resolve));
  return recorder.heads.pop().trim().split('\r\n');
}

const authorization = (lines) => lines.filter((line) => /^authorization:/i.test(line));
const basic = (text) => `authorization: Basic ${Buffer.from(text).toString('base64')}`;

test('user and password of a URL become the header Authorization', async (t) => {
  const recorder = await startRecorder(t);
  const at = `127.0.0.1:${recorder.port}/x?y=1`;
  for (const [user, expected] of [
    ['user:pass@', 'user:pass'],
    ['user@', 'user:'],
    [':pass@', ':pass'],
    ['%C3%A9%3A:p%40%E2%82%AC@', 'é::p@€'],
  ]) {
    for (const url of [`ws://${user}${at}`, new URL(`http://${user}${at}`)]) {
      const lines = await requestOf(recorder, url);
      t.is(lines[0], 'GET /x?y=1 HTTP/1.1');
      t.is(lines[1], `Host: 127.0.0.1:${recorder.port}`);
      t.deepEqual(authorization(lines), [basic(expected)]);
    }
  }
  t.deepEqual(authorization(await requestOf(recorder, `ws://${at}`)), []);
});

test('a header Authorization in the options replaces the credentials of the URL', async (t) => {
  const recorder = await startRecorder(t);
  const url = `ws://user:pass@127.0.0.1:${recorder.port}`;
  const headers = { AUTHORIZATION: 'Bearer x', other: 'y' };
  const lines = await requestOf(recorder, url, { headers });
  t.deepEqual(authorization(lines), ['AUTHORIZATION: Bearer x']);
  t.true(lines.includes('other: y'));
  const both = await requestOf(recorder, url, { headers: { other: 'y' } });
  t.true(both.includes('other: y'));
  t.deepEqual(authorization(both), [basic('user:pass')]);
});

test('a text that is no address is refused by the constructor, which shows it and the expected form', (t) => {
  for (const text of [
    '127.0.0.1:9042',
    'localhost:9042',
    'localhost:9042/path',
    'localhost',
    '[::1]:9042',
    'ws:localhost:9042',
    'ftp://localhost:9042',
    'wss//localhost',
    'ws://',
    'ws://localhost:99999',
    'ws://local host',
    'ws://localhost/#',
    'ws://localhost:9042/path#fragment',
  ]) {
    for (const rest of [[], [undefined], [null], [{ protocol: 2 }]]) {
      const error = t.throws(() => new WSMsgBroker('a', text, ...rest), { instanceOf: TypeError });
      t.is(error.code, 'ERR_WSMB_ADDRESS', text);
      t.true(error.message.includes(`"${text}"`), error.message);
      t.true(error.message.includes('ws://host:port/path'), error.message);
    }
  }
  t.throws(() => new WSMsgBroker('a', new URL('file:///a')), { code: 'ERR_WSMB_ADDRESS' });
  t.throws(() => new WSMsgBroker('a', 'ftp://localhost', 9042), { code: 'ERR_WSMB_ADDRESS' });
});

test('the error of an address hides its password', (t) => {
  for (const text of [
    'ftp://user:secret@host',
    'ws://user:secret@host/#x',
    'ws://u:se%E0cret@host',
  ]) {
    const error = t.throws(() => new WSMsgBroker('a', text), { code: 'ERR_WSMB_ADDRESS' });
    t.false(error.message.includes('cret'), error.message);
    t.true(error.message.includes('***@host'), error.message);
  }
  const forgotten = t.throws(() => new WSMsgBroker('ws://user:secret@host'));
  t.false(forgotten.message.includes('secret'), forgotten.message);
});

test('a forgotten id or address is refused by the constructor', (t) => {
  for (const args of [
    ['ws://localhost:9042'],
    ['ws://localhost:9042', { protocol: 2 }],
    [new URL('wss://localhost/path')],
    ['a'],
    ['a', undefined],
    ['a', null, {}],
    ['127.0.0.1', 9042],
    [],
  ]) {
    const error = t.throws(() => new WSMsgBroker(...args), { instanceOf: TypeError });
    t.is(error.code, 'ERR_WSMB_ADDRESS');
    if (/^wss?:/.test(String(args[0]))) {
      t.true(error.message.includes('not an id'), error.message);
      t.true(error.message.includes(`new WSMsgBroker(id, "${args[0]}")`), error.message);
    }
  }
});

test('http: and https: URLs mean ws: and wss:', async (t) => {
  const server = await startServer(t);
  const client = new WSMsgBroker('a', `HTTP://127.0.0.1:${server.address().port}`);
  await client.connected();
  await client.close();
  t.throws(() => new WSMsgBroker('a', 'https://localhost', { tls: false }), {
    code: 'ERR_WSMB_OPTION',
  });
});

test('a host that no URL can contain is an error with the expected form', async (t) => {
  for (const host of ['local host', 'user@localhost', 'localhost/x', '']) {
    const client = new WSMsgBroker('a', host, 9);
    const closed = new Promise((resolve) => client.on('close', resolve));
    const [error] = await once(client, 'error');
    t.is(error.code, 'ERR_WSMB_ADDRESS', host);
    t.true(error.message.includes('ws://host:port/path'), error.message);
    await closed;
  }
});
