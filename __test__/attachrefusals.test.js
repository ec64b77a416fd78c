'use strict';

// Upgrade requests that a broker at the port of an HTTP server refuses: the event `refused`, the log and the counters are
// those of a broker with a port of its own.

const http = require('node:http');
const net = require('node:net');
const { once } = require('node:events');
const { setTimeout: pause } = require('node:timers/promises');
const test = require('ava');
const { WSMsgBroker } = require('./support/start');
const { upgrade } = require('./support/upgrade');

/** An HTTP server, listening. */
async function startHttp(t, onRequest = (_, res) => res.end('page')) {
  const httpServer = http.createServer(onRequest).listen(0, '127.0.0.1');
  await once(httpServer, 'listening');
  t.teardown(() => {
    httpServer.closeAllConnections();
    httpServer.close();
  });
  return httpServer;
}

/** A broker with these options that collects its refusals and the lines of its log. */
async function startRefusing(t, options) {
  const [refusals, lines] = [[], []];
  const log = (level) => (members) => members.event === 'refused' && lines.push([level, members]);
  const logger = { debug: log('debug'), info: log('info'), warn: log('warn'), error: log('error') };
  const server = new WSMsgBroker.Server({ ...options, logger });
  t.teardown(() => server.close());
  server.on('refused', (refusal) => refusals.push(refusal));
  server.on('error', () => {});
  await server.ready;
  /** Resolves with the refusals once there are this many. */
  const refused = async (count) => {
    while (refusals.length < count) await pause(1);
    return refusals;
  };
  return { server, refusals, lines, refused };
}

/** Sends bytes to a port. Resolves with the status of the response, or undefined without one, and the sender's port. */
async function ask(t, port, bytes) {
  const socket = net.connect(port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  await once(socket, 'connect');
  const { localPort } = socket;
  socket.write(bytes);
  let text = '';
  for await (const chunk of socket) text += chunk.toString('latin1');
  return { status: /^HTTP\/1\.1 (\d+)/.exec(text)?.[1], localPort };
}

/** The events, lines and counters of requests, each with the options of a broker. `place(options)`: where it listens. */
async function observe(t, place, [request, options]) {
  const { port, options: all } = await place({ path: '/ws', ...options });
  const { server, lines, refused } = await startRefusing(t, all);
  const { status, localPort } = await ask(t, port ?? server.address().port, request);
  const [{ remotePort, ...refusal }] = await refused(1);
  t.is(remotePort, localPort);
  t.is(refusal.status, status ?? 'dropped');
  t.is(lines.length, 1);
  t.is(lines[0][1].remotePort, localPort);
  const { refused: count } = server.stats();
  const line = `wsmsgbroker_handshakes_refused_total{status="${refusal.status}"} 1`;
  t.true(server.metrics().includes(line), line);
  const [level, { remotePort: _, ...members }] = lines[0];
  return { refusal, count, level, members };
}

/** Where a broker listens, with its options. */
const PLACES = {
  'a port of its own': async (_, options) => ({ options: { port: 0, ...options } }),
  'an HTTP server': async (t, options) => {
    const httpServer = await startHttp(t);
    return { port: httpServer.address().port, options: { server: httpServer, ...options } };
  },
};

for (const [name, status, ...args] of [
  ['an unknown path', '404', upgrade('/other')],
  ['a body', '400', upgrade('/ws', 'Content-Length: 5')],
  ['an invalid key', '400', upgrade('/ws').replace(/Key: .*/, 'Key: short')],
  ['an origin', '403', upgrade('/ws', 'Origin: https://a.example'), { allowedOrigins: [] }],
  [
    'headers that are too long',
    '431',
    upgrade('/ws', `X: ${'x'.repeat(300)}`),
    { maxHeaderSize: 256 },
  ],
]) {
  test(`a request is refused and reported alike at an HTTP server and at a port: ${name}`, async (t) => {
    const [own, attached] = await Promise.all(
      Object.values(PLACES).map((place) => observe(t, (options) => place(t, options), args)),
    );
    t.deepEqual(attached, own);
    t.deepEqual(attached.refusal, { remoteAddress: '127.0.0.1', secure: false, status });
    t.deepEqual([attached.count, attached.level], [1, 'info']);
  });
}

test('connections above maxConnections are reported at an HTTP server', async (t) => {
  const httpServer = await startHttp(t);
  const options = { server: httpServer, path: '/ws', maxConnections: 1 };
  const { server, lines, refused } = await startRefusing(t, options);
  const { port } = httpServer.address();
  const client = await new WSMsgBroker('a', `ws://127.0.0.1:${port}/ws`).connected();
  t.teardown(() => client.close());
  const { status } = await ask(t, port, upgrade('/ws'));
  t.is(status, '503');
  t.like((await refused(1))[0], { remoteAddress: '127.0.0.1', status });
  t.is(lines[0][0], 'warn');
  t.is(server.stats().refused, 1);
});

for (const [name, status, allowUpgrade] of [
  ['false', '401', async () => false],
  [
    'an error',
    '403',
    () => {
      throw new Error('no session');
    },
  ],
  ['a context that is too large', '403', () => 'x'.repeat(5000)],
  ['nothing in time', '403', () => new Promise(() => {})],
]) {
  test(`a request is reported for which allowUpgrade returns ${name}`, async (t) => {
    const place = PLACES['an HTTP server'];
    const options = { allowUpgrade, handshakeTimeout: 50 };
    const found = await observe(t, (all) => place(t, all), [upgrade('/ws'), options]);
    t.deepEqual(found, {
      refusal: { remoteAddress: '127.0.0.1', secure: false, status },
      count: 1,
      level: 'info',
      members: { event: 'refused', remoteAddress: '127.0.0.1', secure: false, status },
    });
  });
}

test('a request whose socket is closed while allowUpgrade decides is reported as dropped', async (t) => {
  const httpServer = await startHttp(t);
  let decide;
  const allowUpgrade = () =>
    new Promise((resolve) => {
      decide = resolve;
    });
  const options = { server: httpServer, path: '/ws', allowUpgrade };
  const { server, refused } = await startRefusing(t, options);
  const socket = net.connect(httpServer.address().port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write(upgrade('/ws'));
  while (decide === undefined) await pause(1);
  const { localPort } = socket;
  socket.resetAndDestroy();
  await pause(20);
  decide(true);
  const [{ remoteAddress, remotePort, status }] = await refused(1);
  t.deepEqual([remoteAddress, remotePort, status], ['127.0.0.1', localPort, 'dropped']);
  t.is(server.stats().refused, 1);
});

test('an upgrade request behind a pending answer is reported as dropped', async (t) => {
  let finish;
  const httpServer = await startHttp(t, (_, res) => {
    finish = () => res.end('late');
  });
  const { server, refused } = await startRefusing(t, { server: httpServer, path: '/ws' });
  const page = 'GET /page HTTP/1.1\r\nHost: a\r\n\r\n';
  const asked = ask(t, httpServer.address().port, page + upgrade('/ws'));
  while (finish === undefined) await pause(1);
  finish();
  await asked;
  const [{ remoteAddress, status }] = await refused(1);
  t.deepEqual([remoteAddress, status], ['127.0.0.1', 'dropped']);
  t.is(server.stats().refused, 1);
});

test('of several brokers, that of the path reports a request, and the first one reports an unknown path', async (t) => {
  const httpServer = await startHttp(t);
  const start = (path) => startRefusing(t, { server: httpServer, path, allowUpgrade: () => false });
  const [first, second] = [await start('/first'), await start('/second')];
  const { port } = httpServer.address();
  t.is((await ask(t, port, upgrade('/second'))).status, '401');
  t.is((await ask(t, port, upgrade('/unknown'))).status, '404');
  const statuses = async (broker) => (await broker.refused(1)).map(({ status }) => status);
  t.deepEqual(await statuses(first), ['404']);
  t.deepEqual(await statuses(second), ['401']);
  await first.server.close();
  t.is((await ask(t, port, upgrade('/unknown'))).status, '404');
  t.is((await second.refused(2))[1].status, '404');
  t.is(first.refusals.length, 1);
});

test('handleUpgrade reports what it refuses, with the address that the program has found out', async (t) => {
  const httpServer = await startHttp(t);
  const { server, refused } = await startRefusing(t, { noServer: true, path: '/ws' });
  const results = [];
  httpServer.on('upgrade', (req, socket, head) => {
    results.push(server.handleUpgrade(req, socket, head, { remoteAddress: '203.0.113.7' }));
  });
  const { port } = httpServer.address();
  const invalid = upgrade('/ws').replace('Upgrade: websocket', 'Upgrade: other');
  t.is((await ask(t, port, upgrade('/other'))).status, '404');
  t.is((await ask(t, port, invalid)).status, '400');
  t.deepEqual(results, ['refused', 'refused']);
  const expected = ['404', '400'].map((status) => ({
    remoteAddress: '203.0.113.7',
    remotePort: undefined,
    secure: false,
    status,
  }));
  t.deepEqual(await refused(2), expected);

  // While it drains, for a client that does not leave.
  const client = new WSMsgBroker('a', `ws://127.0.0.1:${port}/ws`, { protocol: 2 });
  await client.connected();
  const responder = once(client, 'message');
  const asked = server.request(1, 'a').catch(() => {});
  await responder;
  const closed = server.close({ drain: 10_000 });
  t.is((await ask(t, port, upgrade('/ws'))).status, '503');
  t.is((await refused(3))[2].status, '503');
  await server.close();
  await Promise.all([closed, asked]);
  // Once it is closed, it emits nothing.
  t.is((await ask(t, port, upgrade('/ws'))).status, '503');
  t.is((await refused(3)).length, 3);
});

test('a socket that a broker has already is not reported', async (t) => {
  const httpServer = await startHttp(t);
  const { server, refusals } = await startRefusing(t, { noServer: true });
  const results = [];
  httpServer.on('upgrade', (req, socket, head) => {
    for (let n = 0; n < 2; n += 1) results.push(server.handleUpgrade(req, socket, head));
  });
  const client = new WSMsgBroker('a', `ws://127.0.0.1:${httpServer.address().port}/`);
  t.teardown(() => client.close());
  await client.connected();
  t.deepEqual(results, ['native', 'refused']);
  t.deepEqual([server.stats().refused, refusals.length], [0, 0]);
});
