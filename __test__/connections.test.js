'use strict';

// Reports of a server about its connections: where they come from, also behind proxies, and who they are.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const WebSocket = require('ws');
const { X509Certificate } = require('node:crypto');
const { authority } = require('../testkit/certificates');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

/** Registers this id on a WebSocket with these headers. */
async function register(t, server, id, headers, target = '/') {
  const socket = new WebSocket(`ws://127.0.0.1:${server.address().port}${target}`, { headers });
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  const registered = once(socket, 'message');
  socket.send(JSON.stringify({ action: 'register', id }));
  await registered;
  return socket;
}

test('connection and registered have the address of the client', async (t) => {
  const server = await startServer(t);
  const connected = once(server, 'connection');
  const registered = once(server, 'registered');
  const client = await startClient(t, server, 'a');
  const [info] = await connected;
  const { remotePort } = info;
  t.deepEqual(info, { remoteAddress: '127.0.0.1', remotePort, secure: false });
  t.true(Number.isInteger(remotePort) && remotePort > 0);
  t.deepEqual(await registered, ['a', info]);
  const gone = once(server, 'unregistered');
  client.close();
  t.deepEqual(await gone, ['a']);
});

test("the server's own client has no address", async (t) => {
  const server = await startServer(t);
  const registered = once(server, 'registered');
  await server.client.connected();
  const info = { remoteAddress: '', remotePort: undefined, secure: false };
  t.deepEqual(await registered, ['server', info]);
});

for (const [name, trustProxy, headers, info] of [
  ['without trustProxy', undefined, { 'X-Forwarded-For': '1.2.3.4' }, {}],
  ['with trustProxy false', false, { 'X-Forwarded-For': '1.2.3.4' }, {}],
  ['with no trusted proxy', 0, { 'X-Forwarded-For': '1.2.3.4' }, {}],
  ['without a header', 1, {}, {}],
  ['one proxy', 1, { 'X-Forwarded-For': '6.6.6.6, 1.2.3.4' }, { remoteAddress: '1.2.3.4' }],
  [
    'two proxies',
    2,
    { 'X-Forwarded-For': '6.6.6.6, 1.2.3.4, 5.6.7.8' },
    { remoteAddress: '1.2.3.4' },
  ],
  ['any proxies', true, { 'X-Forwarded-For': '6.6.6.6, 1.2.3.4' }, { remoteAddress: '6.6.6.6' }],
  [
    'a proxy with TLS',
    1,
    { 'X-Forwarded-For': '2001:db8::1', 'X-Forwarded-Proto': 'https' },
    { remoteAddress: '2001:db8::1', secure: true },
  ],
  [
    'the standard header',
    1,
    { Forwarded: 'for=6.6.6.6, for="[2001:db8::1]:4711";proto=https' },
    { remoteAddress: '2001:db8::1', remotePort: 4711, secure: true },
  ],
  ['a proxy that hides the client', 1, { Forwarded: 'for=unknown' }, { remoteAddress: '' }],
]) {
  test(`the address of a client behind proxies: ${name}`, async (t) => {
    const credentials = [];
    const server = await startServer(t, {
      trustProxy,
      authenticate: (given) => credentials.push(given) > 0,
    });
    const connected = once(server, 'connection');
    const registered = once(server, 'registered');
    const socket = await register(t, server, 'a', headers);
    const own = { remoteAddress: '127.0.0.1', remotePort: socket._socket.localPort, secure: false };
    const isForwarded = info.remoteAddress !== undefined;
    const expected = { ...own, ...(isForwarded && { remotePort: undefined }), ...info };
    t.deepEqual(await connected, [expected]);
    t.deepEqual(await registered, ['a', expected]);
    const [{ remoteAddress, secure }] = credentials;
    t.deepEqual([remoteAddress, secure], [expected.remoteAddress, expected.secure]);
  });
}

test('trustProxy is checked', (t) => {
  for (const trustProxy of ['yes', -1, 1.5, Number.NaN, null, [], ['10.0.0.0/33'], [8]]) {
    t.throws(() => new WSMsgBroker.Server({ port: 0, trustProxy }), { code: 'ERR_WSMB_OPTION' });
  }
});

test('authenticate gets the path and the query of the URL', async (t) => {
  const urls = [];
  const server = await startServer(t, {
    path: '/a b',
    authenticate: ({ url }) => urls.push(url) > 0,
  });
  await register(t, server, 'a', {}, '/a%20b?room=1&name=%C3%A9');
  t.deepEqual(urls, ['/a%20b?room=1&name=%C3%A9']);
  t.is(new URL(urls[0], 'ws://host').searchParams.get('name'), 'é');
});

test('authenticate gets the certificate of the client', async (t) => {
  const trusted = authority();
  const clients = authority('clients');
  const shown = [];
  const server = await startServer(t, {
    tls: { ...trusted.issue(), ca: clients.ca, requestCert: true },
    authenticate: (credentials) => shown.push(credentials) > 0,
  });
  const { port } = server.address();
  const own = clients.issue();
  const connected = once(server, 'connection');
  const client = new WSMsgBroker('a', `wss://localhost:${port}`, {
    tls: { ca: trusted.ca, ...own },
    protocol: 2,
  });
  t.teardown(() => client.close());
  await client.connected();
  t.true((await connected)[0].secure);
  const [{ certificate, secure }] = shown;
  const expected = new X509Certificate(own.cert);
  t.true(secure);
  t.is(certificate.fingerprint256, expected.fingerprint256);
  t.is(certificate.subject, expected.subject);
  t.is(certificate.commonName, expected.toLegacyObject().subject.CN);
  t.is(certificate.subjectAltName, expected.subjectAltName);
  t.deepEqual(certificate.raw, expected.raw);
});

test('close calls its callback once the server is closed', async (t) => {
  const server = await startServer(t);
  await startClient(t, server, 'a');
  const order = [];
  const called = new Promise((resolve) => {
    server.close((...args) => resolve(order.push('callback') && args));
    order.push('returned');
  });
  t.deepEqual(await called, []);
  t.deepEqual(order, ['returned', 'callback']);
  t.is(server.stats(), null);
});

test('close calls its callback after a drain, and each one of several calls', async (t) => {
  const server = await startServer(t);
  const calls = [];
  const first = new Promise((resolve) => server.close({ drain: 60_000 }, resolve));
  const second = new Promise((resolve) => server.close(resolve));
  const third = new Promise((resolve) => server.close(undefined, resolve));
  calls.push(await first, await second, await third);
  t.deepEqual(calls, [undefined, undefined, undefined]);
});

test('the callback of close gets an error if the server was closed before', async (t) => {
  const server = await startServer(t);
  const { close } = server.wss;
  await server.close();
  const error = await new Promise((resolve) => server.close(resolve));
  t.is(error.code, 'ERR_WSMB_NOT_OPEN');
  t.is((await new Promise((resolve) => close(resolve))).code, 'ERR_WSMB_NOT_OPEN');
  await server.close();
  for (const callback of [1, 'x', {}]) {
    t.throws(() => server.close({}, callback), { code: 'ERR_WSMB_OPTION' });
  }
});

test('the reason of a disconnect arrives whatever its characters', async (t) => {
  const server = await startServer(t);
  for (const reason of ['', 'é'.repeat(61), '"quoted"\n', '東京']) {
    const socket = await register(t, server, 'a', {});
    const closed = once(socket, 'close');
    t.true(server.disconnect('a', 4000, reason));
    const [code, received] = await closed;
    t.deepEqual([code, String(received)], [4000, reason]);
  }
});

/** Runs a program with the package as `WSMsgBroker`; its lines of output, once it has ended by itself. */
async function run(t, program) {
  const text = `const { once } = require('node:events');
    const WSMsgBroker = require(${JSON.stringify(require.resolve('..'))});
    (async () => {${program}})();`;
  const child = spawn(process.execPath, ['-e', text], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.teardown(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  const [code] = await once(child, 'close');
  t.is(code, 0);
  return output.split('\n').slice(0, -1);
}

const OPEN = `const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await server.ready;`;

test('unref lets the process end while a server is open', async (t) => {
  const lines = await run(
    t,
    `${OPEN}
    process.on('exit', () => console.log(server.address() !== null));
    if (server.unref() !== server) throw new Error('returns another object');`,
  );
  t.deepEqual(lines, ['true']);
});

test("unref includes the server's own client, whether it exists already or not", async (t) => {
  for (const order of [
    'await server.client.connected(); server.unref();',
    'server.unref(); await Promise.all([server.client.connected(), tick()]);',
  ]) {
    const lines = await run(
      t,
      `const tick = () => new Promise((resolve) => setTimeout(resolve, 500));
      ${OPEN} ${order} console.log('connected');`,
    );
    t.deepEqual(lines, ['connected']);
  }
});

test('ref undoes unref until the server is closed', async (t) => {
  const lines = await run(
    t,
    `${OPEN}
    server.unref().ref();
    // This timer does not keep the process alive.
    setTimeout(() => {
      console.log('alive');
      server.close(() => {
        console.log('closed');
        server.ref();
      });
    }, 100).unref();`,
  );
  t.deepEqual(lines, ['alive', 'closed']);
});

test('a client keeps the process alive beside a server that does not', async (t) => {
  const lines = await run(
    t,
    `${OPEN}
    server.unref();
    const { port } = server.address();
    const client = new WSMsgBroker('a', '127.0.0.1', port, '/', { protocol: 2 });
    await client.connected();
    setTimeout(() => {
      console.log('alive');
      client.close();
    }, 100).unref();`,
  );
  t.deepEqual(lines, ['alive']);
});

test('nothing is left open once all servers and clients are closed', async (t) => {
  const lines = await run(
    t,
    `const before = process.getActiveResourcesInfo().length;
    for (let count = 0; count < 12; count += 1) {
      for (const file of Object.keys(require.cache)) delete require.cache[file];
      const Loaded = require(${JSON.stringify(require.resolve('..'))});
      const server = new Loaded.Server({ port: 0, host: '127.0.0.1' });
      await server.ready;
      const client = new Loaded('a', '127.0.0.1', server.address().port, '/', { protocol: 2 });
      await client.connected();
      await Promise.all([client.close(), server.close()]);
    }
    await new Promise(setImmediate);
    console.log(process.listenerCount('exit'), process.getActiveResourcesInfo().length - before);`,
  );
  t.deepEqual(lines, ['1 0']);
});
