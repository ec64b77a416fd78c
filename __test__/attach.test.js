'use strict';

// Brokers that share the port of an HTTP server.

const fs = require('node:fs');
const http = require('node:http');
const http2 = require('node:http2');
const https = require('node:https');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const tls = require('node:tls');
const { once } = require('node:events');
const { Duplex } = require('node:stream');
const { setTimeout: pause } = require('node:timers/promises');
const { Worker } = require('node:worker_threads');
const test = require('ava');
const { WebSocket, WebSocketServer } = require('ws');
const { authority } = require('../testkit/certificates');
const { WSMsgBroker } = require('./support/start');
const { frame, upgrade } = require('./support/upgrade');

const trusted = authority();

/** An HTTP server, listening, that answers with the path. */
async function startHttp(t, httpServer = http.createServer(), address = [0, '127.0.0.1']) {
  httpServer.on('request', (req, res) => res.end(`page ${req.url}`));
  httpServer.listen(...address);
  await once(httpServer, 'listening');
  t.teardown(() => {
    httpServer.closeAllConnections?.();
    httpServer.close();
  });
  return httpServer;
}

/** A broker at an HTTP server. */
async function attach(t, httpServer, options) {
  const server = new WSMsgBroker.Server({ server: httpServer, path: '/ws', ...options });
  t.teardown(() => server.close());
  await server.ready;
  return server;
}

const portOf = (httpServer) => httpServer.address().port;
const urlOf = (httpServer, end = '/ws') => `ws://127.0.0.1:${portOf(httpServer)}${end}`;

async function join(t, id, url, options) {
  const client = new WSMsgBroker(id, url, { protocol: 2, ...options });
  t.teardown(() => client.close());
  client.handle((message) => message);
  return client.connected();
}

/** Fetches a page from a port. */
async function get(port, headers) {
  const req = http.get({ host: '127.0.0.1', port, path: '/page', headers, agent: false });
  const [res] = await once(req, 'response');
  let text = '';
  for await (const chunk of res) text += chunk;
  return text;
}

/** Sends bytes to a port; resolves with all that comes until the connection ends, or until `isEnough(text)`. */
async function talk(t, address, bytes, isEnough = () => false) {
  const socket = net.connect(address);
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  socket.write(bytes);
  let text = '';
  for await (const chunk of socket) {
    text += chunk.toString('latin1');
    if (isEnough(text)) break;
  }
  return text;
}

const statusOf = (text) => Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1]);

/** HTTP servers of all kinds, with the way in which their sockets are taken over. */
const KINDS = {
  http: () => [http.createServer(), 'handedOver'],
  https: () => [https.createServer(trusted.issue()), 'bridged'],
  http2: () => [http2.createSecureServer({ ...trusted.issue(), allowHTTP1: true }), 'bridged'],
};

for (const [kind, make] of Object.entries(KINDS)) {
  test(`${kind}: clients converse through the port of an HTTP server`, async (t) => {
    const [httpServer, way] = make();
    await startHttp(t, httpServer);
    const server = await attach(t, httpServer);
    t.deepEqual(server.address(), httpServer.address());
    const scheme = kind === 'http' ? 'ws' : 'wss';
    const url = `${scheme}://localhost:${portOf(httpServer)}/ws`;
    const options = kind === 'http' ? {} : { tls: { ca: trusted.ca } };
    const a = await join(t, 'a', url, options);
    await join(t, 'b', url, options);
    t.is((await a.request('x'.repeat(3_000_000), 'b')).message.length, 3_000_000);
    const numbers = Array.from({ length: 500 }, (_, n) => n);
    const answers = await Promise.all(numbers.map((n) => a.request(n, 'b')));
    t.deepEqual(
      answers.map(({ message }) => message),
      numbers,
    );
    t.is(server.stats()[way], 2);
    const closed = new Promise((resolve) => a.on('close', (...args) => resolve(args)));
    server.disconnect('a', 4001, 'over');
    t.deepEqual(await closed, [4001, 'over']);
    await server.close();
    t.is(httpServer.listening, true);
  });
}

test('clients converse through a Unix socket of an HTTP server', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  const file = path.join(folder, 's');
  const httpServer = await startHttp(t, http.createServer(), [file]);
  const server = await attach(t, httpServer);
  t.is(server.address(), file);
  const sent = Buffer.concat([
    Buffer.from(upgrade('/ws')),
    frame({ action: 'register', id: 'u' }),
    frame({ action: 'send', message: 'early', dest: 'u' }),
  ]);
  const text = await talk(t, file, sent, (text) => text.includes('early'));
  t.is(statusOf(text), 101);
  t.is(server.stats().handedOver, 1);
});

test('frames behind the request, and those that come during allowUpgrade, arrive in order', async (t) => {
  for (const kind of ['native', 'bridge']) {
    const httpServer = await startHttp(t);
    let decide;
    const allowUpgrade = () =>
      new Promise((resolve) => {
        decide = resolve;
      });
    const server = await attach(t, httpServer, { allowUpgrade });
    const received = [];
    server.client.on('message', (message) => received.push(message.slice(0, 4)));
    await server.client.connected();
    if (kind === 'bridge') {
      httpServer.prependListener('connection', (socket) => {
        socket.encrypted = true;
      });
    }
    const socket = net.connect(portOf(httpServer), '127.0.0.1');
    t.teardown(() => socket.destroy());
    let hasEnded = false;
    socket.on('end', () => {
      hasEnded = true;
    });
    socket.resume();
    socket.write(
      Buffer.concat([Buffer.from(upgrade('/ws')), frame({ action: 'register', id: 'x' })]),
    );
    while (decide === undefined) await pause(1);
    const expected = [];
    for (let n = 0; n < 20; n += 1) {
      const message = String(n).padStart(4, '0') + 'x'.repeat(20_000);
      expected.push(message.slice(0, 4));
      socket.write(frame({ action: 'send', message, dest: 'server' }));
    }
    await pause(200);
    decide(true);
    while (received.length < 20) await pause(1);
    t.deepEqual(received, expected);
    await pause(300);
    t.false(hasEnded, 'the peer sees no end');
    t.is(server.stats()[kind === 'native' ? 'handedOver' : 'bridged'], 1);
  }
});

test('allowUpgrade decides, and its context comes to authenticate', async (t) => {
  const httpServer = await startHttp(t);
  const seen = [];
  const errors = [];
  const server = await attach(t, httpServer, {
    allowUpgrade: async ({ url, headers }) => {
      if (url.includes('fail')) throw new Error('no session');
      if (url.includes('large')) return { text: 'x'.repeat(5000) };
      return headers.cookie === 'session=1' && { user: 'ann', roles: ['a'] };
    },
    authenticate: ({ id, context, url, remoteAddress, secure }) => {
      seen.push([id, context, url, remoteAddress, secure]);
      return context.user === id;
    },
  });
  server.on('error', (error) => errors.push(error.message));
  const cookie = { headers: { cookie: 'session=1' } };
  await join(t, 'ann', urlOf(httpServer, '/ws?q=1'), cookie);
  t.deepEqual(seen, [['ann', { user: 'ann', roles: ['a'] }, '/ws?q=1', '127.0.0.1', false]]);
  const { code } = await t.throwsAsync(join(t, 'bob', urlOf(httpServer), cookie));
  t.is(code, 'ERR_WSMB_UNAUTHORIZED');
  for (const [end, status] of [
    ['/ws', 401],
    ['/ws?fail', 403],
    ['/ws?large', 403],
  ]) {
    t.is(statusOf(await talk(t, httpServer.address(), upgrade(end))), status, end);
  }
  t.deepEqual(
    errors.map((text) => text.slice(0, 20)),
    ['no session', 'context is longer, e'],
  );
});

test('handleUpgrade takes sockets that the program routes', async (t) => {
  const httpServer = await startHttp(t);
  const seen = [];
  const server = new WSMsgBroker.Server({
    noServer: true,
    authenticate: ({ remoteAddress, context }) => {
      seen.push([remoteAddress, context]);
      return true;
    },
  });
  t.teardown(() => server.close());
  await server.ready;
  t.is(server.address(), null);
  const ways = [];
  httpServer.on('upgrade', (req, socket, head) => {
    const given = { remoteAddress: '203.0.113.7', context: { n: 1 } };
    ways.push(server.handleUpgrade(req, socket, head, given));
  });
  await join(t, 'a', urlOf(httpServer, '/any/path'));
  t.deepEqual(seen, [['203.0.113.7', { n: 1 }]]);
  t.deepEqual(ways, ['native']);
  const text = upgrade('/x').replace('Upgrade: websocket', 'Upgrade: other');
  t.is(statusOf(await talk(t, httpServer.address(), text)), 400);
  await server.close();
  t.is(statusOf(await talk(t, httpServer.address(), upgrade('/x'))), 503);
  t.deepEqual(ways, ['native', 'refused', 'refused']);
  t.throws(() => server.handleUpgrade({}, {}), { code: 'ERR_WSMB_OPTION' });
});

test('any Duplex is bridged', async (t) => {
  const server = new WSMsgBroker.Server({ noServer: true });
  t.teardown(() => server.close());
  await server.ready;
  let output = '';
  const socket = new Duplex({
    read() {},
    write(chunk, _, done) {
      output += chunk.toString('latin1');
      done();
    },
  });
  const rawHeaders = upgrade('/')
    .split('\r\n')
    .slice(1, -2)
    .flatMap((line) => line.split(': '));
  const headers = Object.fromEntries(
    rawHeaders.flatMap((name, n) => (n % 2 ? [] : [[name.toLowerCase(), rawHeaders[n + 1]]])),
  );
  const req = { method: 'GET', url: '/', httpVersion: '1.1', headers, rawHeaders };
  t.is(server.handleUpgrade(req, socket, null), 'bridge');
  socket.push(frame({ action: 'register', id: 'd' }));
  while (!output.includes('registered')) await pause(1);
  t.true(server.has('d'));
  socket.push(null);
  await once(socket, 'close');
  while (server.has('d')) await pause(1);
  t.is(server.stats().connections, 0);
});

test('an unknown path is 404 if nobody else listens, and a request for h2c is answered as any other', async (t) => {
  const httpServer = await startHttp(t);
  await attach(t, httpServer);
  t.is(statusOf(await talk(t, httpServer.address(), upgrade('/other'))), 404);
  const h2c = (body) =>
    upgrade('/page', ...(body ? [`Content-Length: ${body.length}`] : []))
      .replace('Upgrade: websocket', 'Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk')
      .replace('Connection: Upgrade', 'Connection: Upgrade, HTTP2-Settings')
      .replace('GET', body ? 'POST' : 'GET') + body;
  for (const body of ['', 'hello']) {
    // The connection goes on.
    const twice = (text) => text.split('page /page').length > 2;
    const text = await talk(t, httpServer.address(), h2c(body) + h2c(body), twice);
    t.is(statusOf(text), 200);
    t.is(text.split('HTTP/1.1 200').length, 3);
  }
});

test('an upgrade behind a pending answer is not taken', async (t) => {
  const httpServer = http.createServer();
  let finish;
  httpServer.on('request', (_, res) => {
    finish = () => res.end('late');
  });
  httpServer.listen(0, '127.0.0.1');
  await once(httpServer, 'listening');
  t.teardown(() => httpServer.close());
  const server = await attach(t, httpServer);
  const page = 'GET /page HTTP/1.1\r\nHost: a\r\n\r\n';
  const text = talk(t, httpServer.address(), page + upgrade('/ws'));
  while (finish === undefined) await pause(1);
  await pause(20);
  finish();
  t.notRegex(await text, /101/);
  t.is(server.stats().accepted, 0);
});

test('requests that could smuggle another are refused', async (t) => {
  const httpServer = await startHttp(t);
  const server = await attach(t, httpServer);
  for (const line of ['Content-Length: 5', 'Transfer-Encoding: chunked', 'Host: other']) {
    const text = await talk(t, httpServer.address(), upgrade('/ws', line));
    t.true([400, NaN].includes(statusOf(text)), `${line} ${text}`);
  }
  const many = Array.from({ length: 500 }, (_, n) => `X-${n}: 1`);
  t.is(statusOf(await talk(t, httpServer.address(), upgrade('/ws', ...many))), 431);
  t.is(server.stats().accepted, 0);
  await join(t, 'a', urlOf(httpServer));
});

test('other WebSocket servers of the HTTP server work, in any order', async (t) => {
  for (const order of ['before', 'after', 'catch-all']) {
    for (const isBridge of [false, true]) {
      const httpServer = http.createServer();
      if (isBridge) {
        httpServer.prependListener('connection', (socket) => {
          socket.encrypted = true;
        });
      }
      await startHttp(t, httpServer);
      const other = () => {
        const options = order === 'catch-all' ? {} : { path: '/other' };
        const wss = new WebSocketServer({ server: httpServer, ...options });
        wss.on('connection', (socket) => socket.send('hello'));
        t.teardown(() => wss.close());
      };
      if (order === 'before') other();
      const server = await attach(t, httpServer);
      if (order !== 'before') other();
      const a = await join(t, 'a', urlOf(httpServer));
      t.is((await a.request(1, 'a')).message, 1);
      const theirs = new WebSocket(urlOf(httpServer, '/other'));
      t.is(String((await once(theirs, 'message'))[0]), 'hello', `${order} ${isBridge}`);
      theirs.terminate();
      t.is(server.stats().connections, 1);
    }
  }
});

test('two brokers share an HTTP server, each with its path', async (t) => {
  const httpServer = await startHttp(t);
  const one = await attach(t, httpServer);
  const other = await attach(t, httpServer, { path: '/café' });
  const error = t.throws(() => new WSMsgBroker.Server(httpServer, '/ws'));
  t.is(error.code, 'ERR_WSMB_OPTION');
  await join(t, 'a', urlOf(httpServer));
  await join(t, 'b', `${urlOf(httpServer, '/caf%C3%A9')}`);
  t.deepEqual([one.ids(), other.ids()], [['a'], ['b']]);
  t.is(statusOf(await talk(t, httpServer.address(), upgrade('/none'))), 404);
  await one.close();
  t.is(statusOf(await talk(t, httpServer.address(), upgrade('/ws'))), 404);
  await join(t, 'c', `${urlOf(httpServer, '/café')}`);
  await other.close();
  t.is(httpServer.listenerCount('upgrade'), 0);
  const again = await attach(t, httpServer);
  await join(t, 'd', urlOf(httpServer));
  t.deepEqual(again.ids(), ['d']);
});

test('HTTP server and broker end independently', async (t) => {
  const httpServer = await startHttp(t);
  const server = await attach(t, httpServer);
  const a = await join(t, 'a', urlOf(httpServer));
  t.is(await get(portOf(httpServer)), 'page /page');
  await new Promise((resolve) => httpServer.close(resolve));
  t.is((await a.request(1, 'a')).message, 1);
  const goaway = once(a, 'goaway');
  const closed = server.close({ drain: 5000 });
  t.is(server.address(), null, 'also while it drains');
  await goaway;
  await a.drain();
  await closed;
});

test('a closed broker leaves no bridge whose peer does not read', async (t) => {
  const httpServer = await startHttp(t, https.createServer(trusted.issue()));
  const accepted = once(httpServer, 'secureConnection');
  const server = await attach(t, httpServer, { closeTimeout: 300 });
  const options = { ca: trusted.ca, servername: 'localhost' };
  const peer = tls.connect(portOf(httpServer), '127.0.0.1', options);
  t.teardown(() => peer.destroy());
  peer.on('error', () => {});
  peer.write(Buffer.concat([Buffer.from(upgrade('/ws')), frame({ action: 'register', id: 'p' })]));
  const [socket] = await accepted;
  while (!server.has('p')) await pause(1);
  // More than the buffers of the system take.
  for (let n = 0; n < 32; n += 1) server.send('x'.repeat(1 << 20), 'p');
  while (socket.writableLength === 0) await pause(1);
  await server.close();
  t.true(socket.destroyed);
});

test('a broker is ready when its HTTP server listens', async (t) => {
  const httpServer = http.createServer();
  const server = new WSMsgBroker.Server(httpServer, '/ws', { id: 'me' });
  t.is(server.address(), null);
  let isReady = false;
  const ready = server.ready.then(() => {
    isReady = true;
  });
  await pause(20);
  t.false(isReady);
  httpServer.listen(0, '127.0.0.1');
  await ready;
  t.teardown(() => httpServer.close());
  await server.client.connected();
  t.true(server.has('me'));
  await server.close();

  const never = new WSMsgBroker.Server(http.createServer());
  const rejected = t.throwsAsync(never.ready);
  await never.close();
  t.is((await rejected).code, 'ERR_WSMB_NOT_OPEN');
});

test('options that contradict each other are refused', (t) => {
  const httpServer = http.createServer();
  const tls = trusted.issue();
  for (const options of [
    { server: httpServer, port: 0 },
    { server: httpServer, noServer: true },
    { port: 0, noServer: true },
    { server: httpServer, host: '127.0.0.1' },
    { server: httpServer, tls },
    { noServer: true, tls },
    { noServer: true, allowUpgrade: () => true },
    { port: 0, allowUpgrade: () => true },
    { server: {} },
    { server: httpServer, allowUpgrade: true },
  ]) {
    const { code } = t.throws(() => new WSMsgBroker.Server(options));
    t.is(code, 'ERR_WSMB_OPTION', Object.keys(options).join());
  }
  t.is(httpServer.listenerCount('upgrade'), 0);
  const own = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  const req = { rawHeaders: [], url: '/', headers: {} };
  t.throws(() => own.handleUpgrade(req, new Duplex()), { code: 'ERR_WSMB_OPTION' });
  return own.close();
});

test('a socket that is gone is not taken', async (t) => {
  const httpServer = await startHttp(t);
  let decide;
  const server = await attach(t, httpServer, {
    allowUpgrade: () =>
      new Promise((resolve) => {
        decide = resolve;
      }),
  });
  for (const end of ['destroy', 'end', 'resetAndDestroy']) {
    decide = undefined;
    const socket = net.connect(portOf(httpServer), '127.0.0.1');
    socket.on('error', () => {});
    socket.write(upgrade('/ws'));
    while (decide === undefined) await pause(1);
    const closed = once(socket, 'close');
    socket[end]();
    socket.resume();
    await pause(20);
    decide(true);
    await closed;
  }
  while (server.stats().connections > 0) await pause(1);
  t.is(server.stats().registered, 0);
  await new Promise((resolve) => httpServer.getConnections((_, count) => resolve(t.is(count, 0))));
});

test('routing goes on while JavaScript is blocked', async (t) => {
  const program = `
    const http = require('node:http');
    const { parentPort } = require('node:worker_threads');
    const B = require(${JSON.stringify(path.join(__dirname, '..'))});
    const httpServer = http.createServer();
    const server = new B.Server(httpServer);
    httpServer.listen(0, '127.0.0.1', () => parentPort.postMessage(httpServer.address().port));
    parentPort.on('message', (until) => {
      const flags = new Int32Array(until);
      Atomics.store(flags, 0, 1);
      Atomics.notify(flags, 0);
      Atomics.wait(flags, 1, 0);
      server.close();
      httpServer.close();
      parentPort.unref();
    });`;
  const worker = new Worker(program, { eval: true });
  t.teardown(() => worker.terminate());
  const [port] = await once(worker, 'message');
  const a = await join(t, 'a', `ws://127.0.0.1:${port}`);
  await join(t, 'b', `ws://127.0.0.1:${port}`);
  const shared = new SharedArrayBuffer(8);
  const flags = new Int32Array(shared);
  worker.postMessage(shared);
  while (Atomics.load(flags, 0) === 0) await pause(1);
  t.is((await a.request('while blocked', 'b')).message, 'while blocked');
  Atomics.store(flags, 1, 1);
  Atomics.notify(flags, 1);
  await once(worker, 'exit');
});
