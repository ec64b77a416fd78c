'use strict';

// Clients that connect through an HTTP proxy: tinyproxy, and peers that only play one.

const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { execFileSync, spawn } = require('node:child_process');
const { once } = require('node:events');
const { setTimeout: pause } = require('node:timers/promises');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const { lastingPort } = require('../testkit/ports');
const { findProxy } = require('../lib/proxy');
const { WSMsgBroker, startServer } = require('./support/start');
const listen = require('./support/listen');

const trusted = authority();
const { ca } = trusted;
const VARIABLES = ['HTTPS_PROXY', 'HTTP_PROXY', 'ALL_PROXY', 'NO_PROXY'];

/** Makes a server of Node.js a proxy. Returns the requests that it gets: `[target, authorization]`. */
function serveTunnels(server) {
  const requests = [];
  server.on('connect', ({ url, headers }, socket, head) => {
    requests.push([url, headers['proxy-authorization']]);
    const [host, port] = url.split(/:(?=\d+$)/);
    const upstream = net.connect(Number(port), host, () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      upstream.write(head);
      socket.pipe(upstream).pipe(socket);
    });
    upstream.on('error', () => socket.destroy());
    socket.on('error', () => upstream.destroy());
    socket.on('close', () => upstream.destroy());
  });
  return requests;
}

/** A peer that answers the request for a tunnel with this text, and stays. */
const answering = (t, text) =>
  listen(
    t,
    net.createServer((socket) => socket.once('data', () => socket.write(text))),
  );

/** The error with which a client fails to connect. */
async function failure(t, port, proxy, options) {
  const client = new WSMsgBroker('a', `ws://127.0.0.1:${port}`, { proxy, ...options });
  const closed = new Promise((resolve) => client.on('close', resolve));
  const [error] = await once(client, 'error');
  t.is(await closed, 1006);
  return error;
}

/** Sends a client a message by itself, and closes it. */
async function talks(t, url, options) {
  const client = await new WSMsgBroker('a', url, options).connected();
  const heard = once(client, 'message');
  client.send('x'.repeat(300_000), 'a');
  t.is((await heard)[0].length, 300_000);
  await client.close();
}

function hasTinyproxy() {
  try {
    execFileSync('tinyproxy', ['-v']);
    return true;
  } catch {
    return false;
  }
}

/** A running tinyproxy. */
async function startTinyproxy(t, lines = []) {
  const port = await lastingPort(t);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-proxy-'));
  const config = path.join(folder, 'tinyproxy.conf');
  fs.writeFileSync(
    config,
    [`Port ${port}`, 'Listen 127.0.0.1', 'Timeout 60', ...lines, ''].join('\n'),
  );
  const child = spawn('tinyproxy', ['-d', '-c', config], { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  child.stdout.on('data', (text) => {
    log += text;
  });
  t.teardown(() => {
    child.kill('SIGKILL');
    fs.rmSync(folder, { recursive: true });
  });
  const isOpen = () =>
    new Promise((resolve) => {
      const probe = net.connect(port, '127.0.0.1', () => resolve(true));
      probe.on('error', () => resolve(false));
      probe.on('connect', () => probe.destroy());
    });
  while (!(await isOpen())) {
    if (child.exitCode !== null) throw new Error(`tinyproxy has ended: ${log}`);
    await pause(10);
  }
  return { port, log: () => log };
}

const tinyproxy = hasTinyproxy() ? test : test.skip;
if (!hasTinyproxy()) {
  console.warn('SKIPPED: tinyproxy is not installed (apt-get install tinyproxy)');
}

tinyproxy('ws: and wss: connect through tinyproxy', async (t) => {
  const proxy = await startTinyproxy(t);
  const plain = await startServer(t);
  await talks(t, `ws://127.0.0.1:${plain.address().port}`, {
    proxy: `http://127.0.0.1:${proxy.port}`,
  });
  const secure = await startServer(t, { tls: trusted.issue() });
  const options = { proxy: `http://localhost:${proxy.port}/`, tls: { ca } };
  await talks(t, `wss://localhost:${secure.address().port}`, options);
  t.regex(proxy.log(), new RegExp(`CONNECT 127\\.0\\.0\\.1:${plain.address().port}`));
  t.regex(proxy.log(), new RegExp(`CONNECT localhost:${secure.address().port}`));
  // The form of version 1 has the option too.
  const client = new WSMsgBroker('b', '127.0.0.1', plain.address().port, '/', {
    proxy: `http://127.0.0.1:${proxy.port}`,
  });
  await client.connected();
  await client.close();
});

tinyproxy('tinyproxy with authentication accepts the user and password of its URL', async (t) => {
  const proxy = await startTinyproxy(t, ['BasicAuth user pa.ss']);
  const server = await startServer(t);
  const { port } = server.address();
  const at = `127.0.0.1:${proxy.port}`;
  await talks(t, `ws://127.0.0.1:${port}`, { proxy: `http://user:pa%2Ess@${at}` });
  for (const url of [`http://${at}`, `http://user:wrong@${at}`]) {
    const error = await failure(t, port, url);
    t.is(error.code, 'ERR_WSMB_PROXY');
    t.regex(error.message, /40[17] .*Auth/i);
    t.false(error.message.includes('wrong'));
  }
});

tinyproxy(
  'tinyproxy that may not connect to the port of the server is an error with its status',
  async (t) => {
    const proxy = await startTinyproxy(t, ['ConnectPort 443']);
    const server = await startServer(t);
    const error = await failure(t, server.address().port, `http://127.0.0.1:${proxy.port}`);
    t.is(error.code, 'ERR_WSMB_PROXY');
    t.regex(error.message, /refused to connect to 127\.0\.0\.1:\d+ with status 403 /);
  },
);

test('a proxy that cannot be used is an error with its address and the reason', async (t) => {
  const server = await startServer(t);
  const { port } = server.address();
  const closed = await lastingPort(t);
  const silent = await listen(t, net.createServer());
  for (const [proxy, reason] of [
    [closed, /cannot be used: connect ECONNREFUSED/],
    [
      await answering(t, 'HTTP/1.1 407 Nope\r\n\r\n'),
      /with status 407 Nope: set its user and password/,
    ],
    [await answering(t, 'HTTP/1.1 502 Bad Gateway\r\n\r\n'), /with status 502 Bad Gateway/],
    [await answering(t, 'HTTP/1.0 503\r\n\r\n'), /with status 503$/],
    [await answering(t, '\u0005\u0000'), /is not an HTTP proxy: it sent binary data/],
    [await answering(t, 'SSH-2.0-x\r\n'), /is not an HTTP proxy: it sent "SSH-2\.0-x"/],
    [await answering(t, Buffer.from([0x15, 3, 1, 0, 2, 2, 70])), /speaks TLS: use https:/],
    [
      await listen(
        t,
        net.createServer((socket) => socket.destroy()),
      ),
      /closed the connection|ECONNRESET|EPIPE/,
    ],
    [silent, /500 ms/],
  ]) {
    const error = await failure(t, port, `http://127.0.0.1:${proxy}`, { connectTimeout: 500 });
    t.is(error.code, 'ERR_WSMB_PROXY');
    t.regex(error.message, reason);
    t.true(error.message.includes(`127.0.0.1:${proxy}`), error.message);
  }
  const unknown = await failure(t, port, 'http://no-such-host.invalid:3128');
  t.is(unknown.code, 'ERR_WSMB_PROXY');
  t.regex(unknown.message, /no-such-host\.invalid:3128 cannot be used: getaddrinfo/);
  t.is(server.stats().accepted, 0, 'no connection goes around the proxy');
});

test('errors of the server behind a proxy are those without one', async (t) => {
  const proxy = http.createServer();
  const requests = serveTunnels(proxy);
  const url = `http://user@127.0.0.1:${await listen(t, proxy)}`;
  const web = await listen(
    t,
    http.createServer((_request, response) => response.end()),
  );
  const page = await failure(t, web, url);
  t.deepEqual(
    [page.code, page.message],
    ['ERR_WSMB_UNEXPECTED_RESPONSE', 'unexpected server response (200)'],
  );
  t.deepEqual(requests.pop(), [
    `127.0.0.1:${web}`,
    `Basic ${Buffer.from('user:').toString('base64')}`,
  ]);
  // A server that speaks first: its bytes may come with the response of the proxy.
  const banner = await answering(t, 'HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n');
  t.is((await failure(t, 9, `http://127.0.0.1:${banner}`)).code, 'ERR_WSMB_UNEXPECTED_RESPONSE');
  const client = new WSMsgBroker('a', 'wss://127.0.0.1:9', { proxy: `http://127.0.0.1:${banner}` });
  const rejected = await t.throwsAsync(client.connected(), { code: 'ERR_WSMB_TLS' });
  t.regex(rejected.message, /127\.0\.0\.1:9 does not speak TLS/);
});

test('a proxy may have TLS itself, below that of the server', async (t) => {
  const proxy = https.createServer(trusted.issue());
  const requests = serveTunnels(proxy);
  const url = `https://localhost:${await listen(t, proxy)}`;
  const secure = await startServer(t, { tls: trusted.issue() });
  const target = `localhost:${secure.address().port}`;
  await talks(t, `wss://${target}`, { proxy: url, tls: { ca } });
  t.is(requests[0][0], target);
  // Its certificate is verified.
  const client = new WSMsgBroker('a', `ws://127.0.0.1:${secure.address().port}`, { proxy: url });
  const error = await t.throwsAsync(client.connected(), { code: 'ERR_WSMB_PROXY' });
  t.regex(error.message, /not trusted/);
  // A burst in both directions, more than the buffers hold.
  const peer = await new WSMsgBroker('b', `wss://${target}`, {
    proxy: url,
    tls: { ca },
  }).connected();
  let received = 0;
  const all = new Promise((resolve) => {
    peer.on('message', (text) => {
      received += text.length;
      if (received === 20_000_000) resolve();
    });
  });
  for (let n = 0; n < 200; n += 1) peer.send('y'.repeat(100_000), 'b');
  await all;
  await peer.close();
});

test('a client reconnects through its proxy', async (t) => {
  const proxy = http.createServer();
  const requests = serveTunnels(proxy);
  const server = await startServer(t);
  const client = await new WSMsgBroker('a', `ws://127.0.0.1:${server.address().port}`, {
    proxy: `http://127.0.0.1:${await listen(t, proxy)}`,
    reconnect: { minDelay: 10, maxDelay: 10 },
  }).connected();
  const back = once(client, 'reconnected');
  server.disconnect('a');
  await back;
  t.is(requests.length, 2);
  await client.close();
});

test('close() ends a client that waits for its proxy', async (t) => {
  const silent = await listen(t, net.createServer());
  const options = { proxy: `http://127.0.0.1:${silent}`, closeTimeout: 50 };
  const client = new WSMsgBroker('a', 'ws://127.0.0.1:9', options);
  await pause(50);
  const closed = once(client, 'close');
  await client.close();
  t.deepEqual(await closed, [undefined]);
});

test('what is no URL of an HTTP proxy is refused, without the text', (t) => {
  for (const proxy of [
    '127.0.0.1:3128',
    'socks5://u:secret@host',
    'http://',
    'http://h/path',
    '',
    5,
    null,
    {},
  ]) {
    const error = t.throws(() => new WSMsgBroker('a', 'ws://localhost', { proxy }));
    t.is(error.code, 'ERR_WSMB_OPTION');
    t.true(error.message.includes('"proxy"'), error.message);
    t.false(error.message.includes('secret'), error.message);
  }
});

/** Runs with these environment variables of proxies and no others. */
function withEnvironment(variables, action) {
  const names = VARIABLES.flatMap((name) => [name, name.toLowerCase()]);
  const before = names.map((name) => [name, process.env[name]]);
  for (const name of names) delete process.env[name];
  Object.assign(process.env, variables);
  try {
    return action();
  } finally {
    for (const name of names) delete process.env[name];
    Object.assign(
      process.env,
      Object.fromEntries(before.filter(([, value]) => value !== undefined)),
    );
  }
}

test.serial('proxy: true means the environment variables', async (t) => {
  const find = (variables, host = 'example.org', isSecure = false, port = 9042) =>
    withEnvironment(variables, () => findProxy(true, host, port, isSecure));
  t.is(find({}), undefined);
  t.is(find({ HTTP_PROXY: 'http://p:1' }), 'http://p:1/');
  t.is(find({ http_proxy: 'http://low:1', HTTP_PROXY: 'http://up:1' }), 'http://low:1/');
  t.is(find({ HTTPS_PROXY: 'http://p:1' }), undefined);
  t.is(find({ HTTPS_PROXY: 'http://p:1', HTTP_PROXY: 'http://q:1' }, 'a', true), 'http://p:1/');
  t.is(find({ all_proxy: 'p:1' }), 'http://p:1/');
  t.is(find({ HTTP_PROXY: '', ALL_PROXY: 'https://u:p@p:1' }), 'https://u:p@p:1/');
  t.throws(() => find({ ALL_PROXY: 'socks5://u:secret@p' }), {
    code: 'ERR_WSMB_PROXY',
    message: /ALL_PROXY(?!.*secret)/,
  });
  for (const [entry, host, isExcluded] of [
    ['*', 'example.org', true],
    ['example.org', 'example.org', true],
    ['example.org', 'EXAMPLE.org', true],
    ['example.org', 'www.example.org', true],
    ['.example.org', 'www.example.org', true],
    ['*.example.org', 'www.example.org', true],
    ['example.org', 'myexample.org', false],
    ['www.example.org', 'example.org', false],
    ['a, example.org b', 'example.org', true],
    ['example.org:9042', 'example.org', true],
    ['example.org:443', 'example.org', false],
    ['127.0.0.1', '127.0.0.1', true],
    ['127.0.0.1:443', '127.0.0.1', false],
    ['10.0.0.0/8', '10.1.2.3', true],
    ['10.0.0.0/8', '11.1.2.3', false],
    ['10.0.0.0/x', '10.0.0.0', false],
    ['0.0.1', '10.0.0.1', false],
    ['::1', '[::1]', true],
    ['[::1]:9042', '[::1]', true],
    ['fd00::/8', '[fd12::1]', true],
    ['', 'example.org', false],
  ]) {
    const found = find({ HTTP_PROXY: 'p:1', no_proxy: entry }, host);
    t.is(found, isExcluded ? undefined : 'http://p:1/', `${entry} and ${host}`);
  }
  // A client with a proxy in its environment, and an exception.
  const closed = await lastingPort(t);
  const server = await startServer(t);
  const start = (variables) =>
    withEnvironment(
      { HTTP_PROXY: `127.0.0.1:${closed}`, ...variables },
      () => new WSMsgBroker('a', `ws://127.0.0.1:${server.address().port}`, { proxy: true }),
    );
  await t.throwsAsync(start({}).connected(), { code: 'ERR_WSMB_PROXY' });
  const client = await start({ NO_PROXY: 'localhost,127.0.0.1' }).connected();
  await client.close();
});
