'use strict';

// Peers, listeners and programs that do at the port of an HTTP server what they should not.

const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const tls = require('node:tls');
const { once } = require('node:events');
const { setTimeout: pause } = require('node:timers/promises');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const { WSMsgBroker } = require('./support/start');
const { upgrade } = require('./support/upgrade');

const trusted = authority();

async function start(t, options, httpServer = http.createServer()) {
  const seen = [];
  httpServer.on('request', (req, res) => {
    seen.push(`${req.method} ${req.url}`);
    let body = '';
    req.on('data', (data) => {
      body += data;
    });
    req.on('end', () => {
      if (req.url !== '/slow') return res.end(`page ${req.url} ${body}`);
      setTimeout(() => res.end('slow page'), 200);
    });
  });
  httpServer.listen(0, '127.0.0.1');
  await once(httpServer, 'listening');
  t.teardown(() => {
    httpServer.closeAllConnections();
    httpServer.close();
  });
  const server = new WSMsgBroker.Server({ server: httpServer, path: '/ws', ...options });
  t.teardown(() => server.close());
  await server.ready;
  return { httpServer, server, seen, port: httpServer.address().port };
}

/** Sends bytes; resolves with all that comes until the end, or for this time. */
async function talk(t, port, bytes, millis = 3000) {
  const socket = net.connect(port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  socket.write(bytes);
  let text = '';
  socket.on('data', (data) => {
    text += data.toString('latin1');
  });
  await Promise.race([once(socket, 'close'), pause(millis)]);
  socket.destroy();
  return text;
}

const h2c = (method, target, body = '') =>
  upgrade(target, ...(body ? [`Content-Length: ${body.length}`] : []))
    .replace('GET', method)
    .replace('Connection: Upgrade', 'Connection: Upgrade, HTTP2-Settings, keep-alive')
    .replace('Upgrade: websocket', 'Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk') + body;

test('no request is smuggled behind an upgrade to another protocol', async (t) => {
  const { port, seen } = await start(t);
  const hidden = 'GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n';
  const page = 'POST /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi';
  const text = await talk(t, port, h2c('POST', '/one', hidden) + page);
  t.regex(text, /^HTTP\/1\.1 200 /);
  t.deepEqual(seen, ['POST /one', 'POST /two']);
  t.true(text.endsWith('page /two hi') || text.includes('page /two hi'));

  // Headers that Node.js leaves out.
  const many = Array.from({ length: 1100 }, (_, n) => `X-${n}: 1`).join('\r\n');
  const request = h2c('POST', '/three', hidden).replace('Host:', `${many}\r\nHost:`);
  await talk(t, port, request, 500);
  t.false(seen.includes('GET /hidden'), String(seen));
});

test('headers that Node.js leaves out do not hide a body', async (t) => {
  const httpServer = http.createServer();
  httpServer.maxHeadersCount = 40;
  const { port, server } = await start(t, {}, httpServer);
  const many = Array.from({ length: 80 }, (_, n) => `X-${n}: 1`);
  const text = await talk(t, port, upgrade('/ws', ...many, 'Content-Length: 10'));
  t.regex(text, /^HTTP\/1\.1 4/);
  t.is(server.stats().accepted, 0);
});

test('nothing is written into an answer that is pending', async (t) => {
  for (const options of [{}, { allowUpgrade: () => false }]) {
    const { port } = await start(t, options);
    const slow = 'GET /slow HTTP/1.1\r\nHost: a\r\n\r\n';
    for (const behind of [upgrade('/ws'), upgrade('/unknown')]) {
      const text = await talk(t, port, slow + behind);
      t.true(text === '' || /^HTTP\/1\.1 200 /.test(text), text);
    }
  }
});

test('a peer that resets its connection at any time does not end the process', async (t) => {
  const { port } = await start(t, { allowUpgrade: () => pause(3).then(() => false) });
  const slow = 'GET /slow HTTP/1.1\r\nHost: a\r\n\r\n';
  const peers = [slow + h2c('GET', '/x'), upgrade('/ws'), upgrade('/none'), h2c('GET', '/x')];
  for (const bytes of peers) {
    for (let n = 0; n < 20; n += 1) {
      const socket = net.connect(port, '127.0.0.1');
      socket.on('error', () => {});
      await once(socket, 'connect');
      socket.write(bytes);
      await pause(bytes.startsWith(slow) ? 15 : n % 8);
      socket.resetAndDestroy();
    }
  }
  // An error without a listener would be an uncaught exception, which fails the test.
  t.regex(await talk(t, port, 'GET /page HTTP/1.1\r\nHost: a\r\n\r\n', 200), /page \/page/);
});

test('refusals arrive beside other listeners', async (t) => {
  const { httpServer, port, server } = await start(t);
  httpServer.on('upgrade', () => {});
  t.regex(await talk(t, port, upgrade('/ws', 'Content-Length: 5')), /^HTTP\/1\.1 400 /);
  server.close();
});

test('a listener that ends idle sockets does not end one that is being decided', async (t) => {
  const { httpServer, port } = await start(t, { allowUpgrade: () => pause(300) });
  httpServer.on('upgrade', (_, socket) => {
    setTimeout(() => {
      if (socket.writable && socket.bytesWritten <= 0) socket.end();
    }, 100);
  });
  t.regex(await talk(t, port, upgrade('/ws'), 600), /^HTTP\/1\.1 101 /);
});

test('a peer that is gone is not believed', async (t) => {
  const { port, server } = await start(t, { trustProxy: ['10.9.0.0/16'] });
  const seen = [];
  server.on('connection', ({ remoteAddress }) => seen.push(remoteAddress));
  for (let n = 0; n < 20; n += 1) {
    const socket = net.connect(port, '127.0.0.1');
    await once(socket, 'connect');
    socket.write(upgrade('/ws', 'X-Forwarded-For: 6.6.6.6'));
    socket.resetAndDestroy();
  }
  await pause(100);
  t.false(seen.includes('6.6.6.6'));
  const own = new WSMsgBroker.Server({ noServer: true });
  t.teardown(() => own.close());
  const req = { rawHeaders: [], url: '/', headers: {}, method: 'GET', httpVersion: '1.1' };
  const wrong = () => own.handleUpgrade(req, new net.Socket(), null, { remoteAddress: 'nonsense' });
  t.throws(wrong, { code: 'ERR_WSMB_OPTION' });
});

test('a socket is taken over once, and read although it was paused', async (t) => {
  const httpServer = https.createServer(trusted.issue());
  httpServer.listen(0, '127.0.0.1');
  await once(httpServer, 'listening');
  t.teardown(() => httpServer.close());
  const server = new WSMsgBroker.Server({ noServer: true });
  t.teardown(() => server.close());
  const ways = [];
  httpServer.on('upgrade', (req, socket, head) => {
    socket.pause();
    setTimeout(() => {
      for (let n = 0; n < 2; n += 1) ways.push(server.handleUpgrade(req, socket, head));
    }, 20);
  });
  const { port } = httpServer.address();
  const client = new WSMsgBroker('a', `wss://localhost:${port}/`, { tls: { ca: trusted.ca } });
  t.teardown(() => client.close());
  await client.connected();
  t.deepEqual(ways, ['bridge', 'refused']);
});

test('a program may remove all listeners, and throw anything', async (t) => {
  const { httpServer, port, server } = await start(t, {
    handshakeTimeout: 2 ** 31,
    allowUpgrade: async ({ url }) => {
      if (url.includes('throw')) throw Object.create(null);
    },
  });
  const faults = [];
  server.on('error', (fault) => faults.push(fault));
  t.regex(await talk(t, port, upgrade('/ws?throw')), /^HTTP\/1\.1 403 /);
  t.is(faults.length, 1);
  t.regex(await talk(t, port, upgrade('/ws'), 300), /^HTTP\/1\.1 101 /);
  httpServer.removeAllListeners('upgrade');
  const other = new WSMsgBroker.Server(httpServer, '/other');
  t.teardown(() => other.close());
  await other.ready;
  t.regex(await talk(t, port, upgrade('/other'), 300), /^HTTP\/1\.1 101 /);
});

test('an HTTP server that is fed with TLS sockets answers h2c as well', async (t) => {
  const { httpServer } = await start(t);
  const feeder = tls.createServer(trusted.issue(), (socket) =>
    httpServer.emit('connection', socket),
  );
  feeder.listen(0, '127.0.0.1');
  await once(feeder, 'listening');
  t.teardown(() => feeder.close());
  const socket = tls.connect({
    port: feeder.address().port,
    ca: trusted.ca,
    servername: 'localhost',
  });
  t.teardown(() => socket.destroy());
  socket.write(h2c('GET', '/page'));
  const [data] = await once(socket, 'data');
  t.regex(String(data), /^HTTP\/1\.1 200 /);
});
