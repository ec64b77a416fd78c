'use strict';

// Connection attempts that fail, and the texts and codes of their errors: hosts with several addresses, peers that speak
// another protocol, names that cannot be resolved.

const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { execFile } = require('node:child_process');
const { once } = require('node:events');
const { promisify } = require('node:util');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const { lastingPort } = require('../testkit/ports');
const { WSMsgBroker, startServer } = require('./support/start');
const listen = require('./support/listen');

const trusted = authority();
const { ca } = trusted;

/** Less than any timeout of a client or a server. */
const AT_ONCE = 5_000;
/** Words of libraries that no text may contain. */
const RAW = /InvalidContentType|corrupt message|httparse|tungstenite|rustls|InvalidMessage|Os \{/;

/** A port whose peer sends this text to each connection at once. */
const greeting = (t, text) =>
  listen(
    t,
    net.createServer((socket) => socket.write(text)),
  );

/** The error with which a client fails to connect. */
async function failure(t, url, options) {
  const start = Date.now();
  const client = new WSMsgBroker('a', url, options);
  const closed = new Promise((resolve) => client.on('close', resolve));
  const [error] = await once(client, 'error');
  t.is(await closed, 1006);
  t.true(Date.now() - start < AT_ONCE, `${url}: ${error.message}`);
  t.notRegex(error.message, RAW);
  return error;
}

test('wss: to a port without TLS fails at once, and the error says so', async (t) => {
  const broker = await startServer(t);
  const ports = [
    broker.address().port,
    await listen(t, http.createServer()),
    await greeting(t, 'SSH-2.0-OpenSSH_9.2p1\r\n'),
    await greeting(t, '220 mail.example.org ESMTP ready\r\n'),
    await greeting(t, Buffer.alloc(64)),
  ];
  for (const port of ports) {
    const error = await failure(t, `wss://127.0.0.1:${port}`, { tls: { ca } });
    t.is(error.code, 'ERR_WSMB_TLS');
    t.true(error.message.includes(`127.0.0.1:${port} does not speak TLS`), error.message);
  }
});

test('ws: to a port with TLS fails at once, and the error names wss:', async (t) => {
  const broker = await startServer(t, { tls: trusted.issue() });
  // The alert with which other servers answer.
  const alert = await greeting(t, Buffer.from([0x15, 3, 1, 0, 2, 2, 70]));
  for (const port of [broker.address().port, alert]) {
    const error = await failure(t, `ws://127.0.0.1:${port}`);
    t.is(error.code, 'ERR_WSMB_TLS');
    t.true(error.message.includes(`127.0.0.1:${port} speaks TLS: use wss:`), error.message);
  }
  // Node.js closes the connection without an alert.
  const silent = await listen(t, https.createServer(trusted.issue()));
  t.is((await failure(t, `ws://127.0.0.1:${silent}`)).code, 'ECONNRESET');
});

test('a server that is no WebSocket server is an error that shows its response', async (t) => {
  const web = await listen(
    t,
    http.createServer((_request, response) => response.end('hello')),
  );
  const page = await failure(t, `ws://127.0.0.1:${web}`);
  t.deepEqual(
    [page.code, page.message],
    ['ERR_WSMB_UNEXPECTED_RESPONSE', 'unexpected server response (200)'],
  );
  for (const [text, shown] of [
    ['SSH-2.0-OpenSSH_9.2p1\r\n', '"SSH-2.0-OpenSSH_9.2p1"'],
    ['220 mail.example.org ESMTP ready\r\n', '"220 mail.example.org ESMTP ready"'],
    [Buffer.alloc(9), 'binary data'],
    ['HTTP/1.1 x\r\n\r\n', 'malformed'],
    ['HTTP/1.1 101 Switching Protocols\r\n\r\n', 'Upgrade: websocket'],
    ['HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n', 'Connection: Upgrade'],
  ]) {
    const port = await greeting(t, text);
    const error = await failure(t, `ws://127.0.0.1:${port}`);
    t.is(error.code, 'ERR_WSMB_UNEXPECTED_RESPONSE');
    t.true(error.message.includes(`127.0.0.1:${port} is not a WebSocket server`), error.message);
    t.true(error.message.includes(shown), error.message);
  }
  // As Go's servers answer plain HTTP on a port with TLS.
  const old = await greeting(t, 'HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request');
  t.is((await failure(t, `ws://127.0.0.1:${old}`)).message, 'unexpected server response (400)');
});

test('a server that closes at once is an error', async (t) => {
  const port = await listen(
    t,
    net.createServer((socket) => socket.destroy()),
  );
  t.is((await failure(t, `ws://127.0.0.1:${port}`)).code, 'ECONNRESET');
  const secure = await failure(t, `wss://127.0.0.1:${port}`);
  t.is(secure.code, 'ERR_WSMB_TLS');
  t.regex(secure.message, /during the TLS handshake/);
});

test('an untrusted, foreign or missing certificate is an error that says what to do', async (t) => {
  const server = await startServer(t, { tls: trusted.issue() });
  const { port } = server.address();
  const url = `wss://localhost:${port}`;
  for (const [options, advice] of [
    [undefined, /authority that is not trusted.*"tls\.ca".*NODE_EXTRA_CA_CERTS/],
    [{ tls: { ca: authority('other').ca } }, /authority that is not trusted/],
    [
      { tls: { ca, servername: 'example.org' } },
      /not valid for "example\.org" but for .*localhost/,
    ],
  ]) {
    const error = await failure(t, url, options);
    t.is(error.code, 'ERR_WSMB_TLS');
    t.regex(error.message, advice);
    t.true(error.message.includes(`localhost:${port}`));
  }
  const own = { ...trusted.issue(), ca, requestCert: true };
  const strict = await startServer(t, { tls: own });
  const error = await failure(t, `wss://localhost:${strict.address().port}`, { tls: { ca } });
  t.regex(error.message, /"tls\.cert"/);
});

test('a host with two addresses that refuse is one error with both', async (t) => {
  const port = await lastingPort(t);
  const error = await failure(t, `ws://localhost:${port}`);
  t.is(error.code, 'ECONNREFUSED');
  t.is(error.syscall, 'connect');
  const errors = error.errors ?? [error];
  t.true(errors.some(({ address }) => address === '127.0.0.1'));
  for (const each of errors) {
    t.true(error.message.includes(each.code), error.message);
    t.is(each.port, port);
  }
});

test('the Host header has the port unless it is the default, and brackets for IPv6', async (t) => {
  const heads = [];
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (head) => {
      heads.push(String(head));
      socket.destroy();
    });
  });
  server.listen(0, '::1');
  t.teardown(() => server.close());
  const isListening = await Promise.race([
    once(server, 'listening').then(() => true),
    once(server, 'error').then(() => false),
  ]).catch(() => false);
  if (!isListening) {
    t.pass('no IPv6 here');
    return;
  }
  const { port } = server.address();
  await failure(t, `ws://[::1]:${port}`);
  t.regex(heads[0], new RegExp(`^Host: \\[::1\\]:${port}\\r$`, 'm'));
});

if (process.platform === 'linux') {
  const scene = path.join(__dirname, 'dialing', 'scene.js');

  test('addresses that drop packets and resolvers without an answer are treated as in Node.js', async (t) => {
    t.timeout(60_000);
    // A network and mounts of its own: nothing of the machine is touched.
    const own = ['--user', '--map-root-user', '--net', '--mount', '--'];
    await t.notThrowsAsync(promisify(execFile)('unshare', [...own, process.execPath, scene]));
  });
}

test('files of tls that are unusable for a moment fail the attempt, and the next one reads them again', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  const [caFile, cert, key] = ['ca.pem', 'cert.pem', 'key.pem'].map((name) =>
    path.join(folder, name),
  );
  const own = trusted.issue();
  const write = () => {
    fs.writeFileSync(caFile, ca);
    fs.writeFileSync(cert, own.cert);
    fs.writeFileSync(key, own.key);
  };
  write();
  const server = await startServer(t, { tls: { ...trusted.issue(), ca, requestCert: true } });
  const reconnect = { minDelay: 20, maxDelay: 20 };
  const tls = { ca: caFile, cert, key };
  const client = new WSMsgBroker('a', `wss://localhost:${server.address().port}`, {
    reconnect,
    tls,
  });
  t.teardown(() => client.close());
  let isOver = false;
  client.on('close', (code) => isOver || t.fail(`closed with ${code}`));
  await client.connected();
  for (const [spoil, name] of [
    [() => fs.rmSync(caFile), 'tls.ca'],
    [() => fs.writeFileSync(key, trusted.issue().key), 'tls.key'],
    [() => fs.writeFileSync(cert, 'half of a cer'), 'tls.cert'],
  ]) {
    spoil();
    const errors = [];
    const collect = (_attempt, _delay, error) => errors.push(error);
    client.on('reconnecting', collect);
    server.disconnect('a');
    while (errors.length < 3) await once(client, 'reconnecting');
    client.off('reconnecting', collect);
    t.is(errors[1].code, 'ERR_WSMB_TLS');
    t.true(errors[1].message.includes(`"${name}"`), errors[1].message);
    const back = once(client, 'registered');
    write();
    await back;
  }
  isOver = true;
  await client.close();
});
