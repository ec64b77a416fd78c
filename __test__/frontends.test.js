'use strict';

// Brokers behind real proxies: nginx, Caddy, and HAProxy with the PROXY protocol. And what comes without a proxy.

const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { setTimeout: pause } = require('node:timers/promises');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const { WSMsgBroker, startServer } = require('./support/start');

const trusted = authority();

/** Where Debian has the programs of servers, which may not be in the path. */
const find = (name) =>
  ['/usr/sbin', '/usr/local/sbin', '/usr/bin']
    .map((folder) => path.join(folder, name))
    .find(fs.existsSync);
const NGINX = find('nginx');
const HAPROXY = find('haproxy');
const CADDY = find('caddy');

const withNginx = NGINX ? test : test.skip;
const withHaproxy = HAPROXY ? test : test.skip;
const withCaddy = CADDY ? test : test.skip;

function folderOf(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A TCP port that is free, of those that the system gives to no other test in the meantime. */
async function freePort() {
  for (;;) {
    const probe = net
      .createServer()
      .listen(20_000 + Math.floor(12_000 * Math.random()), '127.0.0.1');
    try {
      await once(probe, 'listening');
    } catch {
      continue;
    }
    const { port } = probe.address();
    probe.close();
    await once(probe, 'close');
    return port;
  }
}

/** Starts a program; resolves when it accepts connections on the port. */
async function start(t, program, args, port) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += text;
    });
  }
  t.teardown(async () => {
    if (child.exitCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  for (;;) {
    if (child.exitCode !== null) throw new Error(output);
    const socket = net.connect(port, '127.0.0.1');
    const isUp = await new Promise((resolve) => {
      socket.on('connect', () => resolve(true));
      socket.on('error', () => resolve(false));
    });
    socket.destroy();
    if (isUp) return;
    await pause(5);
  }
}

async function startNginx(t, location, { tls } = {}) {
  const folder = folderOf(t);
  const port = await freePort();
  const file = path.join(folder, 'nginx.conf');
  if (tls) {
    fs.writeFileSync(path.join(folder, 'cert.pem'), tls.cert);
    fs.writeFileSync(path.join(folder, 'key.pem'), tls.key);
  }
  const secure = tls
    ? `ssl_certificate ${folder}/cert.pem; ssl_certificate_key ${folder}/key.pem;`
    : '';
  fs.writeFileSync(
    file,
    `daemon off; master_process off; pid ${folder}/pid; error_log ${folder}/error.log;
    events {}
    http {
      access_log off;
      ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
        .map((name) => `${name}_temp_path ${folder}/${name};`)
        .join(' ')}
      server { listen 127.0.0.1:${port}${tls ? ' ssl' : ''}; ${secure} ${location} }
    }`,
  );
  await start(t, NGINX, ['-c', file, '-p', folder], port);
  return port;
}

async function startHaproxy(t, config) {
  const folder = folderOf(t);
  const port = await freePort();
  const file = path.join(folder, 'haproxy.cfg');
  fs.writeFileSync(
    file,
    `defaults
  timeout connect 5s
  timeout client 1m
  timeout server 1m
${config(port)}
`,
  );
  await start(t, HAPROXY, ['-db', '-f', file], port);
  return port;
}

/** Starts Caddy with this site. */
async function startCaddy(t, site, { tls } = {}) {
  const folder = folderOf(t);
  const port = await freePort();
  const file = path.join(folder, 'Caddyfile');
  for (const [name, pem] of Object.entries(tls ?? {})) {
    fs.writeFileSync(path.join(folder, `${name}.pem`), pem);
  }
  const secure = tls ? `tls ${folder}/cert.pem ${folder}/key.pem` : '';
  fs.writeFileSync(
    file,
    `{
  admin off
  auto_https disable_redirects
  storage file_system ${folder}
}
${tls ? 'https' : 'http'}://localhost:${port} {
  bind 127.0.0.1
  ${secure}
  ${site}
}
`,
  );
  await start(t, CADDY, ['run', '--config', file, '--adapter', 'caddyfile'], port);
  return port;
}

/** A client that has answered itself, and what the broker knows of its connection. */
async function converse(t, server, url, options) {
  const registered = new Promise((resolve) => {
    server.on('registered', (id, info) => id === 'a' && resolve(info));
  });
  const client = new WSMsgBroker('a', url, { protocol: 2, ...options });
  t.teardown(() => client.close());
  client.handle((message) => message);
  await client.connected();
  const long = 'x'.repeat(300_000);
  t.is((await client.request(long, 'a')).message, long);
  const info = await registered;
  await client.close();
  return info;
}

/** The nginx configuration of the deployment guide. */
const FORWARD = (target) => `location /broker {
  proxy_pass ${target};
  proxy_http_version 1.1;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection "upgrade";
  proxy_set_header Host $host;
  proxy_read_timeout 60s;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Proto $scheme;
}`;

withNginx(
  'nginx forwards to a broker, which learns the client from trusted networks only',
  async (t) => {
    const headers = { 'x-forwarded-for': '203.0.113.9, 10.0.0.3', 'x-forwarded-proto': 'https' };
    for (const [trustProxy, expected] of [
      [0, '127.0.0.1'],
      [1, '127.0.0.1'],
      [3, '203.0.113.9'],
      [['loopback', '10.0.0.0/8'], '203.0.113.9'],
      ['loopback', '10.0.0.3'],
      ['192.0.2.0/24', '127.0.0.1'],
    ]) {
      const server = await startServer(t, { path: '/broker', trustProxy });
      const port = await startNginx(t, FORWARD(`http://127.0.0.1:${server.address().port}`));
      const info = await converse(t, server, `ws://127.0.0.1:${port}/broker`, { headers });
      t.is(info.remoteAddress, expected, String(trustProxy));
    }
  },
);

withNginx('nginx terminates TLS in front of a Unix socket and of an HTTP server', async (t) => {
  const folder = folderOf(t);
  const file = path.join(folder, 'socket');
  const own = new WSMsgBroker.Server({
    port: file,
    path: '/broker',
    trustProxy: 1,
    socketMode: '666',
  });
  t.teardown(() => own.close());
  await own.ready;
  t.is(fs.statSync(file).mode & 0o777, 0o666);
  const httpServer = http.createServer().listen(0, '127.0.0.1');
  t.teardown(() => httpServer.close());
  const attached = new WSMsgBroker.Server(httpServer, '/broker', { trustProxy: 1 });
  t.teardown(() => attached.close());
  await attached.ready;
  for (const [server, target] of [
    [own, `http://unix:${file}`],
    [attached, `http://127.0.0.1:${httpServer.address().port}`],
  ]) {
    const port = await startNginx(t, FORWARD(target), { tls: trusted.issue() });
    const options = { tls: { ca: trusted.ca } };
    const info = await converse(t, server, `wss://localhost:${port}/broker`, options);
    t.deepEqual(info, { remoteAddress: '127.0.0.1', remotePort: undefined, secure: true });
  }
});

withCaddy('Caddy forwards to a broker, and replaces the headers that a client sends', async (t) => {
  // With this setting they could forge the address.
  const server = await startServer(t, { path: '/broker', trustProxy: true });
  const httpServer = http.createServer().listen(0, '127.0.0.1');
  t.teardown(() => httpServer.close());
  const attached = new WSMsgBroker.Server(httpServer, '/broker', { trustProxy: true });
  t.teardown(() => attached.close());
  await attached.ready;
  const headers = { 'x-forwarded-for': '203.0.113.9', 'x-forwarded-proto': 'https' };
  for (const broker of [server, attached]) {
    // The Caddy configuration of the deployment guide.
    const site = `reverse_proxy /broker 127.0.0.1:${broker.address().port}`;
    for (const tls of [undefined, trusted.issue()]) {
      const port = await startCaddy(t, site, { tls });
      const url = `${tls ? 'wss' : 'ws'}://localhost:${port}/broker`;
      const info = await converse(t, broker, url, { headers, tls: tls && { ca: trusted.ca } });
      const secure = Boolean(tls);
      t.deepEqual(info, { remoteAddress: '127.0.0.1', remotePort: undefined, secure });
    }
  }
});

const BACKEND = (port, target, send) => `frontend web
  mode tcp
  bind 127.0.0.1:${port}
  default_backend broker
backend broker
  mode tcp
  server broker1 ${target} ${send}`;

withHaproxy('HAProxy names the client by the PROXY protocol', async (t) => {
  for (const send of ['send-proxy', 'send-proxy-v2']) {
    for (const tls of [undefined, trusted.issue()]) {
      const server = await startServer(t, { proxyProtocol: true, tls });
      const target = `127.0.0.1:${server.address().port}`;
      const port = await startHaproxy(t, (port) => BACKEND(port, target, send));
      const url = `${tls ? 'wss' : 'ws'}://localhost:${port}/`;
      const info = await converse(t, server, url, tls && { tls: { ca: trusted.ca } });
      t.is(info.remoteAddress, '127.0.0.1');
      // That of the client, not that of HAProxy.
      t.true(info.remotePort > 0);
      t.is(info.secure, Boolean(tls));
    }
  }
});

withHaproxy('HAProxy checks the health of a broker, and uses it in HTTP mode', async (t) => {
  const server = await startServer(t, { health: '/healthz' });
  let connections = 0;
  const relay = net.createServer((socket) => {
    connections += 1;
    const onward = net.connect(server.address().port, '127.0.0.1');
    for (const [from, to] of [
      [socket, onward],
      [onward, socket],
    ]) {
      from.on('error', () => to.destroy());
      from.pipe(to);
    }
  });
  relay.listen(0, '127.0.0.1');
  t.teardown(() => relay.close());
  await once(relay, 'listening');
  const { port: target } = relay.address();
  const port = await startHaproxy(
    t,
    (port) => `frontend web
  mode http
  bind 127.0.0.1:${port}
  default_backend broker
backend broker
  mode http
  option httpchk GET /healthz
  http-check expect string ok
  timeout check 30s
  default-server inter 50ms fall 1 rise 1
  server broker1 127.0.0.1:${target} check`,
  );
  // One that fails would take the broker out of service.
  while (connections < 3) await pause(5);
  await converse(t, server, `ws://127.0.0.1:${port}/`);
  t.is(server.stats().refused, 0);
});

/** Sends bytes; resolves with the answer. */
async function talk(port, bytes) {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write(bytes);
  let text = '';
  for await (const chunk of socket) text += chunk.toString('latin1');
  return text;
}

test('with proxyProtocol a connection without the header is closed', async (t) => {
  const server = await startServer(t, {
    proxyProtocol: true,
    health: '/ok',
    handshakeTimeout: 2000,
  });
  const { port } = server.address();
  const get = 'GET /ok HTTP/1.1\r\nHost: a\r\n\r\n';
  t.is(await talk(port, get), '');
  t.is(await talk(port, `PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n${get}`), '');
  t.regex(await talk(port, `PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n${get}`), /^HTTP\/1\.1 200 /);
  t.regex(await talk(port, `PROXY UNKNOWN\r\n${get}`), /^HTTP\/1\.1 200 /);
  // Incomplete: the time is over.
  t.regex(await talk(port, 'PROXY TCP4 1.1.1.1'), /^HTTP\/1\.1 408 /);
  t.is(server.stats().refused, 3);
  while (server.stats().memory > 0) await pause(1);
});

test('the health path answers GET and HEAD, and nothing else changes', async (t) => {
  const server = await startServer(t, { health: '/healthz' });
  const { port } = server.address();
  const request = (line) => talk(port, `${line} HTTP/1.1\r\nHost: a\r\n\r\n`);
  const answer = await request('GET /healthz?x=1');
  t.regex(answer, /^HTTP\/1\.1 200 OK\r\n/);
  t.true(answer.endsWith('\r\n\r\nok'));
  t.true((await request('HEAD /healthz')).endsWith('\r\n\r\n'));
  t.regex(await request('POST /healthz'), /^HTTP\/1\.1 4/);
  t.regex(await request('GET /healthz/'), /^HTTP\/1\.1 426 /);
  t.regex(await request('GET /'), /^HTTP\/1\.1 426 /);
  const res = await fetch(`http://127.0.0.1:${port}/healthz`);
  t.deepEqual([res.status, await res.text()], [200, 'ok']);
  t.is(server.stats().refused, 3);
  t.is(server.stats().accepted, 0);
  for (const health of ['healthz', '/a?b', '/']) {
    t.throws(() => new WSMsgBroker.Server({ port: 0, health }), { code: 'ERR_WSMB_OPTION' });
  }
});

test('options of a listener are checked', (t) => {
  const httpServer = http.createServer();
  for (const options of [
    { port: 0, socketMode: '660' },
    { port: '/tmp/never', socketMode: '999' },
    { port: '/tmp/never', socketMode: 0o1000 },
    { port: 0, proxyProtocol: 1 },
    { server: httpServer, proxyProtocol: true },
    { server: httpServer, health: '/ok' },
    { noServer: true, socketMode: '660' },
  ]) {
    const { code } = t.throws(() => new WSMsgBroker.Server(options));
    t.is(code, 'ERR_WSMB_OPTION', JSON.stringify(Object.keys(options)));
  }
});
