'use strict';

// The API of the dashboard, and the files of its page.

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { once } = require('node:events');
const test = require('ava');
const { startNats } = require('../testkit/nats');
const { TOKEN, disconnect, read, readWhen, send } = require('./support/admin');
const { startCluster } = require('./support/cluster');
const { startSlow } = require('./support/slow');
const { startClient, startServer } = require('./support/start');

const PAGE = path.join(__dirname, '../src/server/admin/page');
/** Maximum bytes of the page with all its files. */
const MAX_PAGE = 100_000;
const FILES = [
  '/',
  '/page.js',
  '/charts.js',
  '/tables.js',
  '/format.js',
  '/uplot.js',
  '/style.css',
  '/figures.css',
];
/** Paths of the API. */
const API = ['/api/stats', '/api/connections', '/api/topics', '/api/find?prefix=', '/api/find?id='];
const MARKUP = '<img src=x onerror="alert(1)">&amp;"\'';

/** Starts a server with an admin endpoint. */
async function start(t, { token, ...options } = {}) {
  const server = await startServer(t, { admin: { port: 0, token }, ...options });
  return { server, port: server.adminAddress().port };
}

/** The figures of the last point of a history. */
function latest({ history: { figures, seconds } }) {
  const [, ...values] = seconds.at(-1) ?? [];
  return Object.fromEntries(figures.map((name, index) => [name, values[index]]));
}

const sum = ({ history: { figures, seconds } }, name) =>
  seconds.reduce((total, row) => total + row[figures.indexOf(name) + 1], 0);

test('totals equal what clients did, to the message', async (t) => {
  const { server, port } = await start(t, { maxConnections: 7, maxMemory: 64 << 20 });
  const [asker, worker] = [
    await startClient(t, server, 'asker', { protocol: 2 }),
    await startClient(t, server, 'worker', { protocol: 2 }),
  ];
  worker.on('message', (message, response) => response?.send(message));
  for (let n = 0; n < 100; n += 1) await asker.request(n, 'worker');
  await t.throwsAsync(asker.request('x', 'nobody'));
  for (let n = 0; n < 1000; n += 1) asker.send('text', 'worker');
  await asker.deliver('last', 'worker');
  const expected = 2 + 100 + 100 + 1 + 1000 + 1;
  const isDone = ({ received, history }) => received === expected && history.seconds.length > 1;
  const stats = await readWhen(port, '/api/stats', isDone);
  t.like(stats, {
    version: require('../package.json').version,
    state: 'ready',
    drain: null,
    canDisconnect: false,
    limits: { connections: 7, memory: 64 << 20 },
    sent: 100 + 100 + 1000 + 1,
    totals: { requests: { answered: 100, unknown_id: 1 }, connections_accepted: { port: 2 } },
    cluster: null,
  });
  t.like(latest(stats), { connections: 2, ids: 2, pending: 0, sendersHeld: 0, outboxBytes: 0 });
  // Rates of full seconds: their sum is the total, but for the seconds that lasted longer.
  t.true(Math.abs(sum(stats, 'messagesIn') / expected - 1) < 0.5, JSON.stringify(stats.history));
  t.true(Math.abs(Date.now() - stats.started) < 60_000);
});

test('only points behind `since` are sent, one for each second', async (t) => {
  const { port } = await start(t);
  const first = await readWhen(port, '/api/stats?since=0', ({ history }) => history.last > 1);
  const { last } = first.history;
  t.deepEqual(
    first.history.seconds.map(([second]) => second),
    Array.from({ length: last }, (_, index) => index + 1),
  );
  const { history } = await readWhen(
    port,
    `/api/stats?since=${last}`,
    (next) => next.history.last > last,
  );
  t.is(history.seconds[0][0], last + 1);
  for (const row of history.seconds) t.is(row.length, history.figures.length + 1);
  t.deepEqual((await read(port, '/api/stats?since=999999')).history.seconds, []);
  t.true((await read(port, '/api/stats?since=-1')).history.seconds.length >= last);
});

test('errors have their kind, code, count and age', async (t) => {
  const { server, port } = await start(t);
  server.on('error', () => {});
  const client = await startClient(t, server, 'a', { protocol: 2 });
  client.send('x', 'nobody');
  const { upgrade, frame } = require('./support/upgrade');
  const socket = net.connect(server.address().port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.write(upgrade('/'));
  socket.write(frame({ action: 'dance' }));
  const { errors } = await readWhen(port, '/api/stats', (stats) => stats.errors.length === 2);
  t.like(errors[0], { kind: 'action', code: 'ERR_WSMB_ACTION', count: 1 });
  t.like(errors[1], { kind: 'message', code: 'unknown_id', count: 1 });
  t.true(errors[0].ago >= 0 && errors[0].ago < 60);
});

test('the brokers of a cluster are named, and a lost connection to NATS is shown', async (t) => {
  const nats = await startNats(t);
  const options = (name) => ({ nats: { servers: nats.url, name } });
  const { server, port } = await start(t, options('one'));
  const other = await start(t, options('two'));
  for (const each of [server, other.server]) each.on('cluster', () => {});
  const isWhole = ({ cluster }) => cluster.connected && cluster.names.join() === 'one,two';
  const { cluster } = await readWhen(port, '/api/stats', isWhole);
  t.like(cluster, { brokers: 2, disconnects: 0 });
  await nats.stop();
  const lost = await readWhen(port, '/api/stats', (stats) => !stats.cluster.connected);
  t.like(lost, { state: 'ready', cluster: { disconnects: 1 } });
});

test('an id is located at any broker of a cluster', async (t) => {
  const { nats, brokers } = await startCluster(t, 2, { admin: { port: 0 } });
  for (const each of brokers) each.on('cluster', () => {});
  const ports = brokers.map((broker) => broker.adminAddress().port);
  const id = 'a/ü +1';
  await startClient(t, brokers[1], id);
  const locate = (port, wanted) => read(port, `/api/find?id=${encodeURIComponent(wanted)}`);
  const expected = { id, isHere: false, node: 'b1', connected: true, silent: [] };
  t.deepEqual(await locate(ports[0], id), expected);
  t.deepEqual(await locate(ports[1], id), { ...expected, isHere: true });
  const missing = { ...expected, id: 'nobody', node: null };
  t.deepEqual(await locate(ports[0], 'nobody'), missing);
  await nats.stop();
  await readWhen(ports[0], '/api/stats', (stats) => !stats.cluster.connected);
  const begun = performance.now();
  t.like(await locate(ports[0], id), { isHere: false, node: null, connected: false });
  t.true(performance.now() - begun < 5000);
  await readWhen(ports[1], '/api/stats', (stats) => !stats.cluster.connected);
  t.like(await locate(ports[1], id), { isHere: true, node: 'b1', connected: false });
});

test('a search at brokers that do not answer ends, and delays no other request', async (t) => {
  const { nats, brokers } = await startCluster(t, 2, { admin: { port: 0 } });
  for (const each of brokers) each.on('cluster', () => {});
  const { port } = brokers[0].adminAddress();
  await nats.pause();
  const begun = performance.now();
  const searches = Array.from({ length: 20 }, () => read(port, '/api/find?id=nobody'));
  const first = await Promise.race([...searches, send(port, '/readyz')]);
  t.is(first.status, 200);
  for (const found of await Promise.all(searches)) {
    t.like(found, { node: null, silent: ['b1'] });
  }
  t.true(performance.now() - begun < 10_000);
});

test('without a cluster an id is here or nowhere', async (t) => {
  const { server, port } = await start(t);
  await startClient(t, server, 'a');
  const rest = { node: null, connected: null, silent: [] };
  t.deepEqual(await read(port, '/api/find?id=a'), { id: 'a', isHere: true, ...rest });
  t.deepEqual(await read(port, '/api/find?id='), { id: '', isHere: false, ...rest });
});

test('a slow receiver is listed with the senders that wait for it, until it ends', async (t) => {
  const { server, port } = await start(t, { maxBackpressure: 1024, slowConsumerTimeout: 60_000 });
  const slow = await startSlow(t, server, MARKUP);
  const sender = await startClient(t, server, 'sender');
  t.deepEqual((await read(port, '/api/connections')).worst, []);
  for (let n = 0; n < 200; n += 1) sender.send('x'.repeat(100_000), MARKUP);
  const isHeld = ({ worst }) => worst[0]?.senders === 1;
  const { worst } = await readWhen(port, '/api/connections', isHeld);
  t.is(worst.length, 1);
  t.like(worst[0], {
    id: MARKUP,
    address: `127.0.0.1:${slow.localPort}`,
    messages: 1,
    protocol: 1,
    isOwner: true,
    isClosing: false,
  });
  t.true(worst[0].waiting > 1024 && worst[0].bytesOut > 0 && worst[0].bytesIn > 0);
  t.true(worst[0].messagesOut > 1);
  t.like(worst[0], { held: null, heldBy: null });
  const held = await readWhen(port, '/api/stats', (stats) => latest(stats).sendersHeld === 1);
  t.true(latest(held).outboxBytes > 1024);
  // Both times grow while the receiver does not read.
  const isOld = ({ worst: [row] }) => row.blocked > 1000 && row.blocking > 1000;
  const { worst: later, at } = await readWhen(port, '/api/connections', isOld);
  t.true(later[0].blocked < at && later[0].blocking < at);
  const { found } = await read(port, '/api/find?prefix=sender');
  t.like(found[0], { senders: 0, blocking: null, heldBy: MARKUP });
  t.true(found[0].held > 1000);
  slow.destroy();
  const isOver = (list) => list.worst.length === 0 && list.closed.length === 1;
  const { closed } = await readWhen(port, '/api/connections', isOver);
  t.like(closed[0], { id: MARKUP, reason: 'lost', code: null, messages: 1 });
});

test('the messages to a receiver are counted', async (t) => {
  const { server, port } = await start(t);
  const sender = await startClient(t, server, 'sender', { protocol: 2 });
  await startClient(t, server, 'receiver', { protocol: 2 });
  const messagesOut = async () =>
    (await read(port, '/api/find?prefix=receiver')).found[0].messagesOut;
  const before = await messagesOut();
  for (let n = 0; n < 1000; n += 1) sender.send(n, 'receiver');
  for (let n = 0; n < 10; n += 1) sender.send('x'.repeat(100_000), 'receiver');
  for (let n = 0; n < 10; n += 1) sender.send(n, ['receiver', 'sender']);
  await sender.deliver('last', 'receiver');
  t.is((await messagesOut()) - before, 1000 + 10 + 10 + 1);
});

test('the page computes rates from two lists', async (t) => {
  const { createRates } = await import('../src/server/admin/page/tables.js');
  const addRates = createRates();
  const rates = (at, ...rows) => {
    const worst = rows.map(([key, messages, messagesOut]) => ({ key, messages, messagesOut }));
    return addRates({ at, worst }).map((row) => row.rates || null);
  };
  t.deepEqual(rates(1000, [1, 10, 20]), [null]);
  t.deepEqual(rates(3000, [1, 14, 30], [2, 5, 5]), [{ received: 2, sent: 5 }, null]);
  // A list that the broker has repeated.
  t.deepEqual(rates(3000, [1, 14, 30], [2, 5, 5]), [{ received: 2, sent: 5 }, null]);
  // The counter of sent messages has 32 bits.
  t.deepEqual(rates(4000, [2, 5, 2 ** 32 - 1]), [{ received: 0, sent: 2 ** 32 - 6 }]);
  t.deepEqual(rates(5000, [2, 5, 9]), [{ received: 0, sent: 10 }]);
  // The broker was started again, and counts its keys anew.
  t.deepEqual(rates(2000, [2, 7, 9]), [null]);
  t.deepEqual(rates(3000, [2, 1, 9]), [null]);
});

test('the last 200 closed connections are listed, with the beginning of long ids', async (t) => {
  const { server, port } = await start(t);
  const end = async (id) => {
    const client = await startClient(t, server, id);
    client.close();
    await once(client, 'close');
  };
  for (let n = 0; n < 205; n += 1) await end(`client-${n}`);
  await end('é'.repeat(1000));
  const isLast = ({ closed }) => closed[0]?.id.startsWith('é');
  const { closed } = await readWhen(port, '/api/connections', isLast);
  t.is(closed.length, 200);
  t.true(Buffer.byteLength(closed[0].id) <= 128);
  t.like(closed[1], { id: 'client-204', reason: 'client', messages: 1 });
  t.true(closed[1].address.startsWith('127.0.0.1:'));
  t.true(closed[1].at <= closed[0].at && Math.abs(Date.now() - closed[0].at) < 60_000);
});

test('ids are found by their beginning, at most 50', async (t) => {
  const { server, port } = await start(t, { id: 'server' });
  const ids = [
    'a/ü +1',
    'a/ü +2',
    MARKUP,
    'many',
    ...Array.from({ length: 51 }, (_, n) => `many-${n}`),
  ];
  await Promise.all(ids.map((id) => startClient(t, server, id)));
  const find = (prefix) => read(port, `/api/find?prefix=${encodeURIComponent(prefix)}`);
  const found = async (prefix) => (await find(prefix)).found.map(({ id }) => id);
  t.deepEqual(await found('a/ü +'), ['a/ü +1', 'a/ü +2']);
  t.deepEqual(await found('<'), [MARKUP]);
  t.deepEqual(await found('A'), []);
  const { found: many, more } = await find('many-');
  t.is(many.length, 50);
  t.true(more);
  t.is((await find('many-1')).more, false);
  const { found: all, more: hasMore } = await find('many');
  t.is(all.length, 50);
  t.is(all[0].id, 'many');
  t.true(hasMore);
  t.like((await find('server')).found[0], { id: 'server', isOwner: false, address: null });
  for (const query of ['', '?prefix', '?prefix=%ff', '?prefix=%', '?id', '?id=%ff']) {
    t.is((await send(port, `/api/find${query}`)).status, 400, query);
  }
});

test('topics with the most subscribers are listed, with their groups', async (t) => {
  const { server, port } = await start(t);
  const clients = await Promise.all(
    ['a', 'b', 'c'].map((id) => startClient(t, server, id, { protocol: 2 })),
  );
  t.deepEqual(await read(port, '/api/topics'), { topics: [], more: false });
  const [a] = clients;
  for (const client of clients) await client.subscribe('room.*');
  await a.subscribe('é', { info: 1 });
  await a.subscribe('room.tea');
  for (const client of clients) {
    const jobs = await client.subscribe('jobs', { group: 'workers', window: 1 });
    jobs.handle(() => new Promise(() => {}));
  }
  await a.subscribe('jobs');
  for (const group of ['g1', 'g2', 'g3', 'g4']) await a.subscribe('many', { group });
  // One for each member, and two that wait.
  for (let n = 0; n < 5; n += 1) await a.deliver(n, { topic: 'jobs' });
  const isNew = ({ topics }) => topics[0]?.groups[0]?.waiting === 2;
  const { topics, more } = await readWhen(port, '/api/topics', isNew);
  t.false(more);
  const idle = (name) => ({ name, members: 1, waiting: 0 });
  const workers = { name: 'workers', members: 3, waiting: 2 };
  const none = { groups: [], groupCount: 0 };
  t.deepEqual(topics, [
    { topic: 'jobs', subscribers: 4, groups: [workers], groupCount: 1 },
    { topic: 'many', subscribers: 4, groups: ['g4', 'g3', 'g2'].map(idle), groupCount: 4 },
    { topic: 'room.*', subscribers: 3, ...none },
    { topic: 'room.tea', subscribers: 1, ...none },
    { topic: 'é', subscribers: 1, ...none },
  ]);
  t.deepEqual((await read(port, '/api/topics?prefix=room.')).topics, topics.slice(2, 4));
  const { subscriptions } = await readWhen(
    port,
    '/api/stats',
    (stats) => stats.subscriptions.topics === 4,
  );
  t.deepEqual(subscriptions, { subscriptions: 13, topics: 4, patterns: 1, members: 1 });
});

test('topics are found by their beginning, at most 50, and searches wait for each other', async (t) => {
  const { server, port } = await start(t);
  const client = await startClient(t, server, 'a', { protocol: 2 });
  const names = Array.from({ length: 60 }, (_, n) => `room.${String(n).padStart(2, '0')}`);
  names.push('room.1.>');
  for (const topic of names) await client.subscribe(topic);
  const find = (prefix) => read(port, `/api/topics?prefix=${encodeURIComponent(prefix)}`);
  const begun = performance.now();
  const { topics, more } = await find('room.');
  t.deepEqual(
    topics.map(({ topic }) => topic),
    names.sort().slice(0, 50),
  );
  t.true(more);
  const [first, second] = await Promise.all([find('room.1'), find('none')]);
  // At most one search a second; the list has its own second.
  t.true(performance.now() - begun > 1900);
  t.is(first.topics.length, 11);
  t.deepEqual(second, { topics: [], more: false });
  t.is((await read(port, '/api/topics')).topics.length, 50);
  const many = await Promise.all(
    Array.from({ length: 20 }, () => send(port, '/api/topics?prefix=room.5')),
  );
  const refused = many.filter(({ status }) => status === 503);
  t.true(refused.length >= 10, `${refused.length}`);
  for (const query of ['?prefix', '?prefix=%ff', '?other=1']) {
    t.is((await send(port, `/api/topics${query}`)).status, 400, query);
  }
});

test('the API needs the token, or without one a host that is an address', async (t) => {
  const open = await start(t);
  const closed = await start(t, { token: TOKEN });
  for (const each of API) {
    const foreign = await send(open.port, each, { headers: { Host: 'example.org' } });
    t.is(foreign.status, 403, each);
    t.is((await send(open.port, each)).status, 200, each);
    t.is((await send(closed.port, each)).status, 401, each);
    const headers = { Authorization: `Bearer ${TOKEN}` };
    const allowed = await send(closed.port, each, { headers });
    t.like(allowed, {
      status: 200,
      headers: {
        'content-type': 'application/json',
        'cache-control': 'no-store',
        'x-content-type-options': 'nosniff',
      },
    });
    const posted = await send(closed.port, each, { method: 'POST', headers });
    t.like(posted, { status: 405, headers: { allow: 'GET, HEAD' } });
  }
  t.is((await read(closed.port, '/api/stats', TOKEN)).canDisconnect, true);
  t.is((await send(open.port, '/api/other')).status, 404);
});

test('without a token no client can be disconnected', async (t) => {
  const { server, port } = await start(t);
  await startClient(t, server, 'a');
  t.is((await disconnect(port, 'a')).status, 403);
  t.true(server.has('a'));
});

test('a request with the token disconnects a client', async (t) => {
  const { server, port } = await start(t, { token: TOKEN, id: 'server' });
  const client = await startClient(t, server, MARKUP);
  for (const Authorization of ['', 'Bearer', `Bearer ${TOKEN}x`]) {
    t.is((await disconnect(port, MARKUP, { headers: { Authorization } })).status, 401);
  }
  t.true(server.has(MARKUP));
  t.is((await disconnect(port, 'nobody')).status, 404);
  t.is((await disconnect(port, 'server')).status, 403);
  const ended = once(server, 'disconnected');
  const closed = once(client, 'close');
  t.like(await disconnect(port, MARKUP), { status: 200, body: '{"disconnected":true}' });
  t.false(server.has(MARKUP));
  t.like((await ended)[0], { id: MARKUP, reason: 'requested', code: 4000 });
  await closed;
  t.true(server.has('server'));
});

test('invalid requests to disconnect are refused', async (t) => {
  const { server, port } = await start(t, { token: TOKEN });
  await startClient(t, server, 'a');
  const status = async (options) => (await disconnect(port, 'a', options)).status;
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', '', 'application/jsonp']) {
    t.is(await status({ headers: { 'Content-Type': type } }), 415, type);
  }
  for (const body of [
    '',
    '{',
    '"a"',
    '["a"]',
    '{}',
    '{"id":1}',
    '{"id":null}',
    '{"id":"a"',
    '\xff',
  ]) {
    t.is(await status({ body }), 400, body);
  }
  const padded = (size) => JSON.stringify({ id: 'b' }).padEnd(size);
  t.is(await status({ body: padded(16 << 10) }), 404);
  t.is(await status({ body: padded((16 << 10) + 1) }), 413);
  // The response may come before the body is written, and the connection then ends.
  const tooLarge = await status({ body: padded(1 << 20) }).catch(({ code }) => code);
  t.true([413, 'EPIPE', 'ECONNRESET'].includes(tooLarge), `${tooLarge}`);
  t.is(await status({ headers: { 'Transfer-Encoding': 'chunked' } }), 411);
  t.is(await status({ headers: { 'Content-Length': '+9' } }).catch(() => 400), 400);
  const read = await send(port, '/api/disconnect');
  t.like(read, { status: 405, headers: { allow: 'POST' } });
  t.true(server.has('a'));
  t.is(await status({ headers: { 'Content-Type': 'Application/JSON; charset=utf-8' } }), 200);
});

test('a body that does not arrive ends only its own request', async (t) => {
  const { port } = await start(t, { token: TOKEN });
  const socket = net.connect(port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.write(
    `POST /api/disconnect HTTP/1.1\r\nAuthorization: Bearer ${TOKEN}\r\n` +
      'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{',
  );
  await once(socket, 'connect');
  t.is((await send(port, '/healthz')).status, 200);
  const [data] = await once(socket, 'data');
  t.regex(String(data), /^HTTP\/1\.1 408 /);
});

test('the page needs no token, loads nothing from elsewhere, and is small', async (t) => {
  const { port } = await start(t, { token: TOKEN });
  let size = 0;
  for (const file of FILES) {
    const { status, headers, body } = await send(port, file);
    t.is(status, 200, file);
    t.is(headers['x-content-type-options'], 'nosniff');
    t.is(
      headers['content-security-policy'],
      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    size += Buffer.byteLength(body);
    const head = await send(port, file, { method: 'HEAD' });
    t.like(head, { status: 200, body: '' });
    t.is(Number(head.headers['content-length']), Buffer.byteLength(body));
    t.notRegex(body, /innerHTML|outerHTML|insertAdjacentHTML|document\.write/, file);
  }
  t.true(size <= MAX_PAGE, `${size} bytes`);
  t.is((await send(port, '/package.json')).status, 401);
  t.log(`${size} bytes`);
});

test('uplot.js is the file of the package uplot, with its license', (t) => {
  const folder = path.join(__dirname, '../node_modules/uplot');
  const license = fs.readFileSync(path.join(folder, 'LICENSE'), 'utf8').trimEnd();
  const code = fs.readFileSync(path.join(folder, 'dist/uPlot.iife.min.js'), 'utf8');
  t.is(fs.readFileSync(path.join(PAGE, 'uplot.js'), 'utf8'), `/*\n${license}\n*/\n${code}`);
});
