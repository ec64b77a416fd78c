'use strict';

// The admin endpoint: metrics, health and readiness over HTTP, and what hostile requests do there.

const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { on, once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const { Worker } = require('node:worker_threads');
const test = require('ava');
const { WSMsgBroker, startServer } = require('./support/start');

const onUnix = process.platform === 'win32' ? test.skip : test;
const TOKEN = '0123456789abcdef';

/** Starts a server with an admin endpoint. */
async function start(t, admin = {}, options = {}) {
  const server = await startServer(t, { admin: { port: 0, ...admin }, ...options });
  return { server, port: server.adminAddress()?.port };
}

/** The response to a GET: `{ status, headers, body }`. */
async function get(target, url, headers = {}, method = 'GET') {
  const where = typeof target === 'string' ? { socketPath: target } : { port: target };
  const request = http.request({ host: '127.0.0.1', ...where, path: url, headers, method }).end();
  const [response] = await once(request, 'response');
  const body = (await response.toArray()).join('');
  return { status: response.statusCode, headers: response.headers, body };
}

/** The value of a metric, with its labels as in the text. */
function value(text, name) {
  const line = text.split('\n').find((each) => each.startsWith(`wsmsgbroker_${name} `));
  return line === undefined ? undefined : Number(line.split(' ').pop());
}

/** Reads metrics until `accepts` is true of their text. */
async function metricsWhen(port, accepts) {
  for (;;) {
    const { body } = await get(port, '/metrics');
    if (accepts(body)) return body;
    await sleep(20);
  }
}

async function connect(t, server, id) {
  const { address, port } = server.address();
  const client = new WSMsgBroker(id, address, port, '/', { protocol: 2 });
  t.teardown(() => client.close());
  return client.connected();
}

test('counters equal what clients did, to the message', async (t) => {
  const { server, port } = await start(t);
  const [asker, worker] = [await connect(t, server, 'asker'), await connect(t, server, 'worker')];
  worker.on('message', (message, response) => {
    if (message === 'refuse') response.reject(new Error('no'));
    else response?.send(message);
  });
  for (let n = 0; n < 100; n += 1) await asker.request(n, 'worker');
  await t.throwsAsync(asker.request('refuse', 'worker'));
  await t.throwsAsync(asker.request('x', 'nobody'));
  for (let n = 0; n < 1000; n += 1) asker.send('text', 'worker');
  await asker.deliver('last', 'worker');
  await t.throwsAsync(asker.request('x', ['nobody', 'none']));
  asker.close();
  await once(asker, 'close');
  const isOver = (text) =>
    value(text, 'connections_closed_total{reason="client"}') === 1 &&
    value(text, 'connections') === 1;
  const text = await metricsWhen(port, isOver);
  const expected = {
    connections: 1,
    ids: 1,
    'connections_accepted_total{via="port"}': 2,
    'requests_total{outcome="answered"}': 100,
    'requests_total{outcome="rejected"}': 1,
    'requests_total{outcome="unknown_id"}': 2,
    requests_pending: 0,
    senders_held: 0,
    outbox_bytes: 0,
    // Two registrations, and all that is sent above; the answers.
    messages_received_total: 2 + 100 + 1 + 1 + 1000 + 1 + 1 + 101,
    messages_sent_total: 100 + 1 + 1000 + 1 + 101,
  };
  const found = Object.fromEntries(Object.keys(expected).map((name) => [name, value(text, name)]));
  t.deepEqual(found, expected);
  // One of eight, by chance.
  const measured = value(text, 'request_duration_seconds_count');
  t.true(measured > 0 && measured < 50);
  t.is(value(text, 'request_duration_seconds_bucket{le="+Inf"}'), measured);
  const stats = server.stats();
  t.is(stats.requests.answered, 100);
  t.is(stats.closed.client, 1);
  t.is(stats.receivedBytes, value(text, 'received_bytes_total'));
  t.is(stats.sentBytes, value(text, 'sent_bytes_total'));
});

test('bytes are counted in both directions, also those of closed connections', async (t) => {
  const { server } = await start(t);
  const [a, b] = [await connect(t, server, 'a'), await connect(t, server, 'b')];
  const before = server.stats();
  await a.deliver('x'.repeat(100_000), 'b');
  b.close();
  await once(b, 'close');
  a.close();
  await once(a, 'close');
  const { receivedBytes, sentBytes } = server.stats();
  t.true(receivedBytes - before.receivedBytes > 100_000);
  t.true(sentBytes - before.sentBytes > 100_000);
  t.true(sentBytes - before.sentBytes < 101_000);
});

test('events tell why a connection has ended, and which handshakes were refused', async (t) => {
  const { server } = await start(t, {}, { path: '/here' });
  const { address, port } = server.address();
  const ended = on(server, 'disconnected');
  const next = async () => (await ended.next()).value[0];
  const client = new WSMsgBroker('a', address, port, '/here', { protocol: 2 });
  await client.connected();
  await client.deliver('text', 'a');
  client.close();
  const first = await next();
  t.like(first, { id: 'a', reason: 'client', messages: 2, remoteAddress: '127.0.0.1' });
  t.true(first.duration > 0 && first.bytesReceived > 0 && first.bytesSent > 0);
  const lost = await new WSMsgBroker('b', address, port, '/here').connected();
  t.true(server.disconnect('b', 4000, 'enough'));
  t.like(await next(), { id: 'b', reason: 'requested', code: 4000 });
  t.is(lost.id, 'b');
  const refused = once(server, 'refused');
  const elsewhere = new WSMsgBroker('c', address, port, '/elsewhere');
  await once(elsewhere, 'error');
  t.like((await refused)[0], { status: '404', remoteAddress: '127.0.0.1', secure: false });
  t.is(server.stats().refused, 1);
});

test('WebSockets are counted by where their sockets come from, and refusals are not among them', async (t) => {
  const web = http.createServer().listen(0, '127.0.0.1');
  await once(web, 'listening');
  t.teardown(() => web.close());
  const allowedOrigins = ['https://example.org'];
  const server = await startServer(t, {
    port: undefined,
    host: undefined,
    server: web,
    allowedOrigins,
    admin: { port: 0 },
  });
  const { port } = web.address();
  const client = new WSMsgBroker('a', '127.0.0.1', port);
  await client.connected();
  for (let n = 0; n < 3; n += 1) {
    const headers = { Origin: 'https://example.com' };
    const refused = new WSMsgBroker('b', '127.0.0.1', port, '/', { headers });
    await once(refused, 'error');
  }
  const { body } = await get(server.adminAddress().port, '/metrics');
  t.is(value(body, 'connections_accepted_total{via="attach"}'), 1);
  t.is(value(body, 'connections_accepted_total{via="port"}'), 0);
  t.is(value(body, 'handshakes_refused_total{status="403"}'), 3);
  t.is(server.stats().accepted, 1);
  client.close();
  await once(client, 'close');
});

test('each connection event is followed by disconnected or refused, whenever the client leaves', async (t) => {
  const { server } = await start(t);
  const { port } = server.address();
  let [opened, ended] = [0, 0];
  server.on('connection', () => {
    opened += 1;
  });
  server.on('disconnected', () => {
    ended += 1;
  });
  server.on('refused', ({ status }) => {
    ended += Number(status === 'dropped');
  });
  const { upgrade } = require('./support/upgrade');
  for (let n = 0; n < 100; n += 1) {
    const socket = net.connect(port, '127.0.0.1').on('error', () => {});
    socket.write(upgrade('/'), () => socket.resetAndDestroy());
    await once(socket, 'close');
  }
  const last = await connect(t, server, 'last');
  last.close();
  await once(last, 'close');
  while (ended < opened || server.stats().connections > 0) await sleep(5);
  t.is(ended, opened);
  const { closed, accepted } = server.stats();
  t.is(
    Object.values(closed).reduce((sum, count) => sum + count),
    accepted,
  );
});

test('after a takeover the former connection ends without the id', async (t) => {
  const { server } = await start(t);
  const former = await connect(t, server, 'a');
  const next = await connect(t, server, 'a');
  const ended = once(server, 'disconnected');
  former.close();
  t.is((await ended)[0].id, undefined);
  t.true(server.has('a'));
  const last = once(server, 'disconnected');
  next.close();
  t.is((await last)[0].id, 'a');
});

test('senders that are held, and who holds them, are seen while it lasts', async (t) => {
  const { server, port } = await start(
    t,
    {},
    { maxBackpressure: 1024, slowConsumerTimeout: 60_000 },
  );
  const { port: own } = server.address();
  const reader = net.connect(own, '127.0.0.1').pause();
  t.teardown(() => reader.destroy());
  const { upgrade, frame } = require('./support/upgrade');
  reader.write(upgrade('/'));
  reader.write(frame({ action: 'register', id: 'slow' }));
  while (!server.has('slow')) await sleep(5);
  const sender = await connect(t, server, 'sender');
  for (let n = 0; n < 200; n += 1) sender.send('x'.repeat(100_000), 'slow');
  const text = await metricsWhen(port, (text) => value(text, 'senders_held') === 1);
  t.is(value(text, 'outbox_blocked_connections'), 1);
  t.true(value(text, 'outbox_bytes') > 1024);
  reader.destroy();
  const free = (text) => value(text, 'senders_held') === 0 && value(text, 'outbox_bytes') === 0;
  const after = await metricsWhen(port, free);
  t.true(value(after, 'sender_hold_seconds_count') >= 1);
  t.true(value(after, 'sender_hold_seconds_sum') > 0);
});

for (const place of ['before events', 'in a listener']) {
  test(`metrics and health are answered while JavaScript is blocked ${place}`, async (t) => {
    const blocked = new Int32Array(new SharedArrayBuffer(4));
    const block = 'Atomics.wait(workerData, 0, 0);';
    const isInListener = place === 'in a listener';
    const program = `
      const { parentPort, workerData } = require('node:worker_threads');
      const { Server } = require(${JSON.stringify(require.resolve('..'))});
      const server = new Server({ port: 0, host: '127.0.0.1', admin: { port: 0 } });
      server.on('registered', () => { ${isInListener ? block : ''} });
      server.on('listening', () => {
        parentPort.postMessage([server.address().port, server.adminAddress().port]);
        ${isInListener ? '' : block}
      });`;
    const worker = new Worker(program, { eval: true, workerData: blocked });
    t.teardown(() => worker.terminate());
    const [[own, port]] = await once(worker, 'message');
    const client = new WSMsgBroker('a', '127.0.0.1', own);
    await once(client, 'registered');
    t.is((await get(port, '/healthz')).status, 200);
    t.is((await get(port, '/readyz')).status, 200);
    const text = await metricsWhen(port, (text) => value(text, 'host_lag_seconds') > 0.3);
    t.is(value(text, 'ids'), 1);
    // The event of the registration waits, or has been collected.
    t.is(value(text, 'host_events_pending_bytes') > 0, !isInListener);
    Atomics.store(blocked, 0, 1);
    Atomics.notify(blocked, 0);
    await metricsWhen(port, (text) => value(text, 'host_lag_seconds') < 0.3);
    client.close();
    await once(client, 'close');
  });
}

test('readiness ends before the port is closed, and clients are accepted meanwhile', async (t) => {
  const { server, port } = await start(t);
  t.is((await get(port, '/readyz')).body, 'ready');
  const closed = server.close({ delay: 60_000, drain: 60_000 });
  t.like(await get(port, '/readyz'), { status: 503, body: 'closing' });
  t.is((await get(port, '/healthz')).status, 200);
  const client = await connect(t, server, 'late');
  t.true(server.has('late'));
  // A second call ends the delay and the drain.
  const again = server.close();
  await Promise.all([closed, again, once(client, 'close')]);
  const error = await t.throwsAsync(get(port, '/readyz'));
  t.is(error.code, 'ECONNREFUSED');
});

test('a token is required for metrics, not for health', async (t) => {
  const { port } = await start(t, { host: '0.0.0.0', token: TOKEN });
  t.like(await get(port, '/metrics'), { status: 401, headers: { 'www-authenticate': 'Bearer' } });
  for (const wrong of ['', 'Bearer', `Basic ${TOKEN}`, `Bearer ${TOKEN}x`, 'Bearer 0']) {
    t.is((await get(port, '/metrics', { Authorization: wrong })).status, 401, wrong);
  }
  t.is((await get(port, '/metrics', { Authorization: `Bearer ${TOKEN}` })).status, 200);
  t.is((await get(port, '/metrics', { Authorization: `bearer ${TOKEN}` })).status, 200);
  t.is((await get(port, '/healthz')).status, 200);
  t.is((await get(port, '/readyz')).status, 200);
});

test('setAdminToken applies to new requests, and a failed call changes nothing', async (t) => {
  const { server, port } = await start(t, { token: TOKEN });
  const status = async (token) =>
    (await get(port, '/metrics', { Authorization: `Bearer ${token}` })).status;
  const next = `${TOKEN}-next`;
  server.setAdminToken(next);
  t.deepEqual([await status(TOKEN), await status(next)], [401, 200]);
  const code = { code: 'ERR_WSMB_OPTION' };
  for (const token of [undefined, 1, '', 'short', 'with spaces in it and long']) {
    const { message } = t.throws(() => server.setAdminToken(token), code);
    t.regex(message, /admin\.token/);
  }
  t.is(await status(next), 200);
  for (const { server } of [await start(t), { server: await startServer(t) }]) {
    const { message } = t.throws(() => server.setAdminToken(next), code);
    t.is(message, 'option "admin.token" cannot be set: the server was started without it');
  }
  await server.close();
  t.throws(() => server.setAdminToken(next), { code: 'ERR_WSMB_NOT_OPEN' });
});

test('without a token a host name is refused, as of a page that has rebound its name', async (t) => {
  const { port } = await start(t);
  for (const host of ['example.org', `example.org:${port}`, '127.0.0.1.example.org']) {
    t.is((await get(port, '/metrics', { Host: host })).status, 403, host);
  }
  for (const host of ['localhost', `127.0.0.1:${port}`, `[::1]:${port}`]) {
    t.is((await get(port, '/metrics', { Host: host })).status, 200, host);
  }
});

test('an address that others can reach needs a token, and a token has a length', (t) => {
  const create = (admin) => () => new WSMsgBroker.Server({ port: 0, admin });
  const code = { code: 'ERR_WSMB_OPTION' };
  t.regex(t.throws(create({ port: 0, host: '0.0.0.0' }), code).message, /admin\.token/);
  t.regex(t.throws(create({ port: 0, token: 'short' }), code).message, /16 characters/);
  t.notRegex(t.throws(create({ port: 0, token: 'short' }), code).message, /short/);
  t.regex(t.throws(create({}), code).message, /admin\.port/);
  t.throws(create({ port: 65_536 }), { code: 'ERR_SOCKET_BAD_PORT' });
  t.throws(create({ port: 0, hots: '::1' }), code);
});

test('an admin port in use is an error that names it, and leaves the port of the server free', async (t) => {
  const taken = net.createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  t.teardown(() => taken.close());
  const { port } = taken.address();
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', admin: { port } });
  const [error] = await once(server, 'error');
  t.like(error, { code: 'EADDRINUSE', address: '127.0.0.1', port });
});

onUnix('the endpoint may be a Unix socket, which is removed', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const file = path.join(folder, 'admin');
  const server = await startServer(t, { admin: { port: file } });
  t.is(server.adminAddress(), file);
  t.is((await get(file, '/readyz')).status, 200);
  await server.close();
  t.false(fs.existsSync(file));
});

test('only GET and HEAD of known paths are answered', async (t) => {
  const { port } = await start(t);
  t.is((await get(port, '/nothing')).status, 404);
  t.is((await get(port, '/metrics/../metrics')).status, 404);
  t.is((await get(port, '/metrics?x=1')).status, 200);
  t.like(await get(port, '/metrics', {}, 'POST'), { status: 405, headers: { allow: 'GET, HEAD' } });
  const head = await get(port, '/metrics', {}, 'HEAD');
  t.is(head.status, 200);
  t.is(head.body, '');
  t.true(Number(head.headers['content-length']) > 1000);
});

/** Sends bytes, and resolves with all that comes back until the connection is closed. */
async function raw(port, bytes) {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write(bytes);
  const chunks = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  await once(socket, 'close');
  return Buffer.concat(chunks).toString();
}

test('hostile requests are refused one by one, and the endpoint goes on', async (t) => {
  const { server, port } = await start(t);
  t.regex(
    await raw(port, `GET / HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`),
    /^HTTP\/1\.1 431 /,
  );
  t.regex(await raw(port, `GET / HTTP/1.1\r\n${'X: 1\r\n'.repeat(100)}\r\n`), /^HTTP\/1\.1 431 /);
  t.regex(await raw(port, '\0\0\0\0\r\n\r\n'), /^HTTP\/1\.1 400 /);
  const twice = 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n';
  t.regex(await raw(port, twice), /^HTTP\/1\.1 400 /);
  const pipelined = await raw(port, 'GET /readyz HTTP/1.1\r\n\r\n'.repeat(100));
  t.is(pipelined.match(/HTTP\/1\.1 200/g).length, 1);
  t.is(server.stats().connections, 0);
});

test('peers that send nothing, or do not read, do not keep others out', async (t) => {
  const { port } = await start(t);
  const open = (text) => {
    const socket = net.connect(port, '127.0.0.1').pause();
    socket.on('error', () => {});
    t.teardown(() => socket.destroy());
    socket.write(text);
    return socket;
  };
  const requests = ['', 'GET /met', 'GET /metrics HTTP/1.1\r\n\r\n'];
  for (let n = 0; n < 300; n += 1) open(requests[n % 3]);
  for (let n = 0; n < 20; n += 1) {
    const before = performance.now();
    t.is((await get(port, '/healthz')).status, 200);
    // Far below the time limits of the other connections.
    t.true(performance.now() - before < 4000);
    open('');
  }
});

test('metrics of a program with an endpoint of its own have no metrics of the process', async (t) => {
  const { server, port } = await start(t);
  t.regex((await get(port, '/metrics')).body, /^process_cpu_seconds_total /m);
  t.notRegex(server.metrics(), /^process_/m);
  t.regex(server.metrics(), /^wsmsgbroker_connections 0$/m);
  const openMetrics = await get(port, '/metrics', { Accept: 'application/openmetrics-text' });
  t.true(openMetrics.body.endsWith('\n# EOF\n'));
  t.regex(openMetrics.headers['content-type'], /^application\/openmetrics-text/);
  await server.close();
  t.is(server.metrics(), null);
  t.is(server.adminAddress(), null);
});

test('the monitoring guide has all metrics', async (t) => {
  const { server } = await start(t, {}, { nats: { servers: 'nats://127.0.0.1:1' } });
  server.on('cluster', () => {});
  const guide = fs.readFileSync(path.join(__dirname, '../docs/guides/monitoring.md'), 'utf8');
  const rows = guide.matchAll(
    /^\| `(\w+)` \| (gauge|counter|histogram) \| (?:`(\w+)`)? ?\| (.*) \|$/gm,
  );
  const documented = Array.from(rows, ([, ...row]) => row);
  const text = server.metrics();
  const described = Array.from(
    text.matchAll(/^# HELP wsmsgbroker_(\w+) (.*)\.\n# TYPE \S+ (\w+)\n\S+?(?:\{(\w+)="|\s)/gm),
    ([, name, help, type, label]) => [name, type, label === 'le' ? undefined : label, help],
  );
  t.true(described.length > 30);
  t.deepEqual(documented, described);
});
