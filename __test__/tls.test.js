'use strict';

const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const tls = require('node:tls');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { setTimeout: pause } = require('node:timers/promises');
const { X509Certificate, generateKeyPairSync } = require('node:crypto');
const test = require('ava');
const ws = require('ws');
const { authority, DAY } = require('../testkit/certificates');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

const CLI = path.join(__dirname, '..', 'bin', 'wsbrokerserver.js');

const trusted = authority();
const { ca } = trusted;

/** The certificate of the server on a port. */
async function shown(port) {
  const socket = tls.connect({ host: 'localhost', port, ca });
  await once(socket, 'secureConnect');
  const { fingerprint256 } = socket.getPeerCertificate();
  socket.destroy();
  return fingerprint256;
}

const fingerprint = ({ cert }) => new X509Certificate(cert).fingerprint256;

/** The error of a client that cannot connect. */
async function failure(t, ...args) {
  const client = new WSMsgBroker('a', ...args);
  t.teardown(() => client.close());
  const closed = once(client, 'close').catch(() => {});
  const [error] = await once(client, 'error');
  await closed;
  return error;
}

/** Files of a certificate and its key. */
function files(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  const names = { cert: path.join(folder, 'cert.pem'), key: path.join(folder, 'key.pem') };
  return {
    names,
    write({ cert, key }) {
      fs.writeFileSync(names.cert, cert);
      fs.writeFileSync(names.key, key);
    },
  };
}

for (const [form, given] of [
  ['text', (identity) => identity],
  ['a Buffer', ({ cert, key }) => ({ cert: Buffer.from(cert), key: Buffer.from(key) })],
]) {
  test(`talks over TLS, the certificate given as ${form}`, async (t) => {
    const server = await startServer(t, { tls: given(trusted.issue()) });
    const { port } = server.address();
    const a = await startClient(t, server, 'a', { tls: { ca } });
    const b = new WSMsgBroker('b', `wss://localhost:${port}/`, { tls: { ca: Buffer.from(ca) } });
    t.teardown(() => b.close());
    b.on('message', (message, response) => response.send([message, 'answer']));
    await once(b, 'registered');
    const answer = await new Promise((resolve) => {
      a.send({ text: 'ä\n'.repeat(50_000) }, 'b', (_from, answer) => resolve(answer));
    });
    t.deepEqual(answer, [{ text: 'ä\n'.repeat(50_000) }, 'answer']);
    const closed = once(a, 'close');
    server.close();
    t.deepEqual(await closed, [1001, 'server is closing']);
  });
}

test('a burst of 50 MB arrives complete and in order', async (t) => {
  const server = await startServer(t, { tls: trusted.issue() });
  const a = await startClient(t, server, 'a', { tls: { ca } });
  const b = await startClient(t, server, 'b', { tls: { ca } });
  const fill = 'x'.repeat(100_000);
  const count = 500;
  const arrived = new Promise((resolve) => {
    let next = 0;
    b.on('message', ([number, text]) => {
      if (number !== next || text.length !== fill.length) {
        resolve(`${number} for ${next}`);
      }
      next += 1;
      if (next === count) {
        resolve('all');
      }
    });
  });
  let slow = false;
  for (let n = 0; n < count; n += 1) {
    slow = !a.send([n, fill], 'b') || slow;
  }
  t.true(slow);
  await once(a, 'drain');
  t.is(a.bufferedAmount, 0);
  t.is(await arrived, 'all');
});

test('a connection fails if only one side uses TLS', async (t) => {
  const secure = await startServer(t, { tls: trusted.issue() });
  const plain = await startServer(t, { handshakeTimeout: 300 });
  const error = await failure(t, '127.0.0.1', plain.address().port, '/', { tls: { ca } });
  t.is(error.code, 'ERR_WSMB_TLS');
  await failure(t, '127.0.0.1', secure.address().port);
  const { port } = secure.address();
  const [hangUp] = await once(http.get({ host: '127.0.0.1', port }), 'error');
  // A TLS alert is not valid HTTP, and a closed socket is not a response.
  t.regex(hangUp.code, /^(HPE_|ECONNRESET)/);
  t.is(secure.stats().accepted + plain.stats().accepted, 0);
});

test('a client refuses an untrusted server unless rejectUnauthorized is false', async (t) => {
  const server = await startServer(t, { tls: trusted.issue() });
  const { port } = server.address();
  const url = `wss://localhost:${port}`;
  for (const options of [
    undefined,
    { tls: { ca: authority('other').ca } },
    { tls: { ca, servername: 'example.org' } },
  ]) {
    const error = await failure(t, url, options);
    t.is(error.code, 'ERR_WSMB_TLS', error.message);
  }
  await startClient(t, server, 'a', { tls: { rejectUnauthorized: false } });
  await startClient(t, server, 'b', { tls: { ca, servername: 'localhost' } });
  t.is((await failure(t, 'localhost', port, '/', { tls: true })).code, 'ERR_WSMB_TLS');
});

test('requestCert admits only clients whose certificate ca has signed', async (t) => {
  const clients = authority('clients');
  const own = { ...trusted.issue(), ca: clients.ca, requestCert: true, minVersion: 'TLSv1.3' };
  const server = await startServer(t, { tls: own });
  const { port } = server.address();
  await startClient(t, server, 'a', { tls: { ca, ...clients.issue() } });
  for (const identity of [{}, trusted.issue()]) {
    const error = await failure(t, 'localhost', port, '/', { tls: { ca, ...identity } });
    t.is(error.code, 'ERR_WSMB_TLS', error.message);
  }
  t.is(server.stats().refused, 2);
});

test('invalid TLS options are thrown by the constructor, with their name', (t) => {
  const { cert, key } = trusted.issue();
  const expired = trusted.issue({ from: Date.now() - 3 * DAY, to: Date.now() - 2 * DAY });
  const server = (options) => () => new WSMsgBroker.Server({ port: 0, tls: options });
  const client = (options, url = 'wss://localhost:1') => {
    return () => new WSMsgBroker('a', url, { tls: options });
  };
  for (const [create, code, name] of [
    [server({ cert: '/nowhere/at/all.pem', key }), 'ERR_WSMB_TLS', 'tls.cert'],
    [server({ cert: Buffer.from('no PEM'), key }), 'ERR_WSMB_TLS', 'tls.cert'],
    [server({ cert, key: trusted.issue().key }), 'ERR_WSMB_TLS', 'tls.key'],
    [server(expired), 'ERR_WSMB_TLS', 'tls.cert'],
    [server({ cert, key, requestCert: true }), 'ERR_WSMB_TLS', 'tls.ca'],
    [server({ cert, key, ca }), 'ERR_WSMB_OPTION', 'tls.ca'],
    [server({ cert, key, ca, requestCert: false }), 'ERR_WSMB_OPTION', 'tls.ca'],
    [server({ cert }), 'ERR_WSMB_OPTION', 'tls.key'],
    [server({ cert, key: 5 }), 'ERR_WSMB_OPTION', 'tls.key'],
    [server({ cert, key: [key] }), 'ERR_WSMB_OPTION', 'tls.key'],
    [server({ cert, key, minVersion: 'TLSv1.1' }), 'ERR_WSMB_OPTION', 'tls.minVersion'],
    [server({ cert, key, requestCert: 1 }), 'ERR_WSMB_OPTION', 'tls.requestCert'],
    [server({ cert, key, passphrase: 'x' }), 'ERR_WSMB_OPTION', 'tls.passphrase'],
    [server(true), 'ERR_WSMB_OPTION', 'tls'],
    [server(null), 'ERR_WSMB_OPTION', 'tls'],
    [client({ ca: '/nowhere/at/all.pem' }), 'ERR_WSMB_TLS', 'tls.ca'],
    [client({ cert }), 'ERR_WSMB_TLS', 'tls.key'],
    [client({ servername: 'no name' }), 'ERR_WSMB_TLS', 'tls.servername'],
    [client({ rejectUnauthorized: 0 }), 'ERR_WSMB_OPTION', 'tls.rejectUnauthorized'],
    [client({ requestCert: true }), 'ERR_WSMB_OPTION', 'tls.requestCert'],
    [client('yes'), 'ERR_WSMB_OPTION', 'tls'],
    [client(null), 'ERR_WSMB_OPTION', 'tls'],
    [client(0), 'ERR_WSMB_OPTION', 'tls'],
    [client(''), 'ERR_WSMB_OPTION', 'tls'],
    [client([]), 'ERR_WSMB_OPTION', 'tls'],
    [client(false), 'ERR_WSMB_OPTION', 'tls'],
    [client(true, 'ws://localhost:1'), 'ERR_WSMB_OPTION', 'tls'],
    [client({ ca }, 'ws://localhost:1'), 'ERR_WSMB_OPTION', 'tls'],
  ]) {
    const error = t.throws(create, { code });
    t.true(error.message.includes(`"${name}"`), error.message);
    t.is(error instanceof TypeError, code === 'ERR_WSMB_OPTION');
    t.false(error.message.includes('PRIVATE'), error.message);
  }
});

test('a client whose tls is neither a boolean nor an object does not connect without TLS', (t) => {
  for (const tls of [null, 0, '', Number.NaN, 0n, []]) {
    const error = t.throws(() => new WSMsgBroker('a', '127.0.0.1', 1, '/', { tls }));
    t.is(error?.code, 'ERR_WSMB_OPTION');
    t.true(error instanceof TypeError);
    t.true(error.message.includes('"tls"'), error.message);
  }
});

test('setTls applies to new connections, and a failed call changes nothing', async (t) => {
  const [first, second] = [trusted.issue(), trusted.issue()];
  const server = await startServer(t, { tls: first });
  const { port } = server.address();
  const old = await startClient(t, server, 'old', { tls: { ca } });
  t.is(await shown(port), fingerprint(first));
  server.setTls(second);
  t.is(await shown(port), fingerprint(second));
  t.throws(() => server.setTls({ ...first, key: second.key }), { code: 'ERR_WSMB_TLS' });
  t.throws(() => server.setTls({ cert: first.cert }), { code: 'ERR_WSMB_OPTION' });
  t.throws(() => server.setTls(), { code: 'ERR_WSMB_OPTION' });
  t.throws(() => server.setTls({ ...second, ca }), { code: 'ERR_WSMB_OPTION' });
  t.is(await shown(port), fingerprint(second));
  const heard = once(old, 'message');
  old.send('still here', 'old');
  t.is((await heard)[0], 'still here');
  const plain = await startServer(t);
  t.throws(() => plain.setTls(first), { code: 'ERR_WSMB_TLS' });
  await server.close();
  t.throws(() => server.setTls(first), { code: 'ERR_WSMB_NOT_OPEN' });
});

for (const version of ['TLSv1.2', 'TLSv1.3']) {
  test(`a ws 8 client connects to our server over ${version}`, async (t) => {
    const server = await startServer(t, { tls: trusted.issue() });
    const only = { ca, minVersion: version, maxVersion: version };
    const socket = new ws.WebSocket(`wss://localhost:${server.address().port}/`, only);
    t.teardown(() => socket.terminate());
    await once(socket, 'open');
    const next = async () => JSON.parse((await once(socket, 'message'))[0]);
    let heard = next();
    socket.send('{"action":"register","id":"a"}');
    t.deepEqual(await heard, { action: 'registered', id: 'a' });
    const message = 'x'.repeat(5_000_000);
    heard = next();
    socket.send(JSON.stringify({ action: 'send', dest: 'a', message }));
    t.deepEqual(await heard, { action: 'message', message, from: 'a' });
    const closed = once(socket, 'close');
    socket.close(1000);
    t.is((await closed)[0], 1000);
  });

  test(`our client connects to a ws 8 server over ${version}`, async (t) => {
    const only = { minVersion: version, maxVersion: version };
    const listener = https.createServer({ ...trusted.issue(), ...only });
    const broker = new ws.WebSocketServer({ server: listener });
    listener.listen(0, 'localhost');
    await once(listener, 'listening');
    t.teardown(() => listener.close());
    broker.on('connection', (socket) => {
      socket.on('message', (data) => {
        const { action, id, message } = JSON.parse(data);
        const reply = action === 'register' ? { action: 'registered', id } : { action, message };
        socket.send(JSON.stringify({ ...reply, ...(message && { action: 'message' }) }));
      });
    });
    const url = `wss://localhost:${listener.address().port}`;
    const client = new WSMsgBroker('a', url, { tls: { ca } });
    await once(client, 'registered');
    const heard = once(client, 'message');
    client.send('y'.repeat(5_000_000), 'a');
    t.is((await heard)[0].length, 5_000_000);
    const closed = once(client, 'close');
    client.close();
    t.deepEqual(await closed, [1000]);
  });
}

test('the command line speaks TLS and reloads its files on SIGHUP', async (t) => {
  const { names, write } = files(t);
  const [first, second] = [trusted.issue(), trusted.issue()];
  write(first);
  const flags = ['--tls-cert', names.cert, '--tls-key', names.key, '--tls-min-version', 'TLSv1.3'];
  const child = spawn(process.execPath, [CLI, '0', 'foo', '--host', '127.0.0.1', ...flags]);
  t.teardown(() => child.kill('SIGKILL'));
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const complaints = readline.createInterface({ input: child.stderr })[Symbol.asyncIterator]();
  const line = (await lines.next()).value;
  const [, port] = /^WSMsgBroker server listening on wss:\/\/127.0.0.1:(\d+)\/foo$/.exec(line);
  const client = new WSMsgBroker('a', `wss://localhost:${port}/foo`, { tls: { ca } });
  t.is((await lines.next()).value, ' + a');
  t.is(await shown(port), fingerprint(first));
  write(second);
  child.kill('SIGHUP');
  while ((await shown(port)) !== fingerprint(second)) {
    await pause(10);
  }
  t.is((await complaints.next()).value, 'wsbrokerserver: SIGHUP has reloaded the TLS certificate');
  // A file that is being replaced: one line is printed, and the old certificate stays.
  write({ cert: second.cert, key: 'half of a ke' });
  child.kill('SIGHUP');
  t.regex(
    (await complaints.next()).value,
    /^wsbrokerserver: .*"tls.key".*; SIGHUP has not changed the TLS certificate$/,
  );
  t.is(await shown(port), fingerprint(second));
  const heard = once(client, 'message');
  client.send(1, 'a');
  t.is((await heard)[0], 1);
  const [closed, exited] = [once(client, 'close'), once(child, 'exit')];
  child.kill('SIGTERM');
  t.deepEqual(await closed, [1001, 'server is closing']);
  t.deepEqual(await exited, [0, null]);
});

test('the command line names the invalid certificate in one line', async (t) => {
  const { names, write } = files(t);
  write(trusted.issue());
  for (const [pattern, ...flags] of [
    [/tls\.key/, '--tls-cert', names.cert],
    [/tls\.cert/, '--tls-cert', `${names.cert}.no`, '--tls-key', names.key],
    [/tls\.ca/, '--tls-cert', names.cert, '--tls-key', names.key, '--tls-request-cert', 'yes'],
    [/tls\.ca/, '--tls-cert', names.cert, '--tls-key', names.key, '--tls-ca', names.cert],
    [/tls\.minVersion/, '--tls-min-version', '1.1', '--tls-cert', names.cert],
  ]) {
    const child = spawn(process.execPath, [CLI, '0', '--host', '127.0.0.1', ...flags]);
    t.teardown(() => child.kill('SIGKILL'));
    let stderr = '';
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    t.deepEqual(await once(child, 'close'), [2, null]);
    t.regex(stderr, pattern);
    t.is(stderr.trim().split('\n').length, 1, stderr);
  }
});

test('a key that is not supported is refused with the kinds that are', (t) => {
  const { cert } = trusted.issue();
  for (const [type, options] of [
    ['rsa', { modulusLength: 1024 }],
    ['ec', { namedCurve: 'P-521' }],
    ['ed448', {}],
  ]) {
    const { privateKey } = generateKeyPairSync(type, options);
    const key = privateKey.export({ type: 'pkcs8', format: 'pem' });
    const create = () => new WSMsgBroker.Server({ port: 0, tls: { cert, key } });
    const { code, message } = t.throws(create);
    t.is(code, 'ERR_WSMB_TLS');
    t.regex(message, /tls\.key.*RSA \(2048 to 4096 bits\), ECDSA \(P-256, P-384\) or Ed25519/);
  }
});

test('a certificate that cannot be used is refused with what to do', async (t) => {
  const server = await startServer(t, { tls: trusted.issue() });
  const { port } = server.address();
  const options = { tls: { ca, servername: 'example.org' } };
  const named = await failure(t, `wss://localhost:${port}`, options);
  t.regex(named.message, /is not valid for "example\.org" but for localhost, 127\.0\.0\.1: /);
  t.notRegex(named.message, /DnsName|IpAddress/);

  // The certificate of an authority as that of a server.
  const own = await startServer(t, { tls: { cert: ca, key: trusted.key } });
  const marked = await failure(t, `wss://localhost:${own.address().port}`, { tls: { ca } });
  t.regex(marked.message, /marked as an authority.*CA:FALSE/);
});
