'use strict';

// A program that lets brokers share the ports of HTTP servers of all kinds, under any version of Node.js. Ends with 0 if
// everything works: conversations, frames in the segment of the request, a take-over that comes late, and no end that
// the peer could see.

const assert = require('node:assert');
const fs = require('node:fs');
const http = require('node:http');
const http2 = require('node:http2');
const https = require('node:https');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const tls = require('node:tls');
const { once } = require('node:events');
const { Worker, isMainThread, parentPort } = require('node:worker_threads');
const WSMsgBroker = require('../..');
const { authority } = require('../../testkit/certificates');
const { frame, upgrade } = require('../support/upgrade');

const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
const LATE = 20;
const LENGTH = 20_000;

const trusted = authority();
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

const KINDS = {
  tcp: { make: () => http.createServer(), way: 'handedOver' },
  unix: { make: () => http.createServer(), way: 'handedOver', file: path.join(folder, 's') },
  https: { make: () => https.createServer(trusted.issue()), way: 'bridged' },
  http2: {
    make: () => http2.createSecureServer({ ...trusted.issue(), allowHTTP1: true }),
    way: 'bridged',
  },
};

async function check(kind, { make, way, file }) {
  const httpServer = make();
  let isLate = false;
  let asked = 0;
  const server = new WSMsgBroker.Server({
    server: httpServer,
    path: '/ws',
    allowUpgrade: async () => {
      asked += 1;
      if (isLate) await pause(200);
    },
  });
  httpServer.listen(...(file ? [file] : [0, '127.0.0.1']));
  await server.ready;
  const isSecure = way === 'bridged';
  const expected = process.versions.bun || process.versions.deno ? 'bridged' : way;
  const { port } = file ? {} : httpServer.address();
  const connect = () =>
    isSecure
      ? tls.connect({ port, host: '127.0.0.1', ca: trusted.ca, servername: 'localhost' })
      : net.connect(file ?? port, ...(file ? [] : ['127.0.0.1']));

  const received = [];
  server.client.on('message', (message) => received.push(message.slice(0, 4)));
  await server.client.connected();
  if (!file) {
    const url = `${isSecure ? 'wss' : 'ws'}://localhost:${port}/ws`;
    const options = { protocol: 2, tls: isSecure ? { ca: trusted.ca } : undefined };
    const client = await new WSMsgBroker('client', url, options).connected();
    client.handle((message) => message);
    const { message } = await server.request('grüße 🦀', 'client');
    assert.strictEqual(message, 'grüße 🦀');
    await client.close();
  }

  isLate = true;
  const socket = connect();
  let isEnded = false;
  socket.on('end', () => {
    isEnded = true;
  });
  socket.resume();
  await once(socket, isSecure ? 'secureConnect' : 'connect');
  const before = asked;
  const numbers = Array.from({ length: LATE }, (_, n) => String(n).padStart(4, '0'));
  const send = (n) => frame({ action: 'send', message: n + 'x'.repeat(LENGTH), dest: 'server' });
  const [first, ...others] = numbers.map(send);
  // In the segment of the request, and then while it is being decided.
  socket.write(
    Buffer.concat([Buffer.from(upgrade('/ws')), frame({ action: 'register', id: 'x' }), first]),
  );
  while (asked === before) await pause(1);
  for (const bytes of others) socket.write(bytes);
  while (received.length < LATE) await pause(1);
  assert.deepStrictEqual(received, numbers);
  await pause(300);
  assert.ok(!isEnded, 'the peer sees an end');
  assert.ok(server.stats()[expected] >= 1, `${kind}: ${JSON.stringify(server.stats())}`);
  socket.destroy();
  await server.close();
  await new Promise((resolve) => {
    httpServer.close(resolve);
    httpServer.closeAllConnections?.();
  });
}

async function main() {
  for (const [kind, options] of Object.entries(KINDS)) await check(kind, options);
  if (!isMainThread) {
    parentPort.postMessage('ok');
    return;
  }
  const worker = new Worker(__filename);
  await once(worker, 'message');
  console.log('ok: attached');
}

main();
