'use strict';

// Brokers at HTTP servers that have other WebSocket servers, too.

const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { once } = require('node:events');
const { setTimeout: pause } = require('node:timers/promises');
const test = require('ava');
const { WebSocket, WebSocketServer } = require('ws');
const { authority } = require('../testkit/certificates');
const load = require('./neighbours');
const { WSMsgBroker } = require('./support/start');

const trusted = authority();

/** How a broker takes over sockets: Windows has no descriptors for it. */
const WAYS = process.platform === 'win32' ? ['bridged'] : ['handedOver', 'bridged'];

/** Resolves with the first message of a WebSocket server; `message` is sent to it before. */
async function ask(t, url, message, protocol) {
  const socket = new WebSocket(url, protocol);
  t.teardown(() => socket.terminate());
  if (message !== undefined) socket.once('open', () => socket.send(message));
  const [answer] = await once(socket, 'message');
  return String(answer);
}

const greet = (socket) => socket.send('hello');
const echo = (socket) => socket.on('message', (message) => socket.send(String(message)));

/**
 * By name, functions that create the neighbour of a broker: its HTTP server; `start()`, which adds the listener for
 * upgrades; and `check(port)`, which uses its WebSockets.
 */
const NEIGHBOURS = {
  async 'ws with a path'(t) {
    const httpServer = http.createServer();
    return {
      httpServer,
      start: () =>
        new WebSocketServer({ server: httpServer, path: '/theirs' }).on('connection', greet),
      check: async (port) => t.is(await ask(t, `ws://127.0.0.1:${port}/theirs`), 'hello'),
    };
  },

  async 'ws with noServer, which destroys other sockets,'(t) {
    const httpServer = http.createServer();
    const other = new WebSocketServer({ noServer: true });
    return {
      httpServer,
      start: () =>
        httpServer.on('upgrade', (req, socket, head) => {
          if (req.url === '/theirs') other.handleUpgrade(req, socket, head, greet);
          else socket.destroy();
        }),
      check: async (port) => t.is(await ask(t, `ws://127.0.0.1:${port}/theirs`), 'hello'),
    };
  },

  async 'Socket.IO'(t) {
    const { Server } = await load('socket.io');
    const { io } = await load('socket.io-client');
    const httpServer = http.createServer();
    // After this time, in milliseconds, it ends sockets of other paths to which nothing was written.
    const destroyUpgradeTimeout = 1;
    return {
      httpServer,
      start() {
        const server = new Server(httpServer, { destroyUpgradeTimeout });
        server.on('connection', (socket) => socket.on('ask', (n, answer) => answer(n + 1)));
        t.teardown(() => server.close());
      },
      async check(port) {
        await pause(destroyUpgradeTimeout);
        const client = io(`http://127.0.0.1:${port}`);
        t.teardown(() => client.close());
        // It starts with polling.
        t.is(await client.emitWithAck('ask', 1), 2);
        const { engine } = client.io;
        if (engine.transport.name === 'polling') await once(engine, 'upgrade');
        t.is(engine.transport.name, 'websocket');
        t.is(await client.emitWithAck('ask', 2), 3);
      },
    };
  },

  async 'express-ws'(t) {
    const { default: express } = await load('express');
    const { default: expressWs } = await load('express-ws');
    const app = express();
    const httpServer = http.createServer(app);
    return {
      httpServer,
      start() {
        expressWs(app, httpServer);
        app.ws('/theirs', echo);
        app.get('/page', (_, res) => res.send('a page'));
      },
      async check(port) {
        t.is(await ask(t, `ws://127.0.0.1:${port}/theirs`, 'hello'), 'hello');
        t.is(await (await fetch(`http://127.0.0.1:${port}/page`)).text(), 'a page');
      },
    };
  },

  async '@fastify/websocket'(t) {
    const { default: fastify } = await load('fastify');
    const { default: websocket } = await load('@fastify/websocket');
    const app = fastify();
    t.teardown(() => app.close());
    return {
      httpServer: app.server,
      async start() {
        await app.register(websocket);
        app.get('/theirs', { websocket: true }, echo);
        app.get('/page', async () => 'a page');
        await app.ready();
      },
      async check(port) {
        t.is(await ask(t, `ws://127.0.0.1:${port}/theirs`, 'hello'), 'hello');
        t.is(await (await fetch(`http://127.0.0.1:${port}/page`)).text(), 'a page');
      },
    };
  },

  async 'hot reloading of Vite'(t) {
    const { createServer } = await load('vite');
    const root = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
    t.teardown(() => fs.rmSync(root, { recursive: true }));
    fs.writeFileSync(path.join(root, 'index.html'), 'a page');
    const httpServer = http.createServer();
    let vite;
    return {
      httpServer,
      async start() {
        const hmr = { server: httpServer };
        vite = await createServer({
          root,
          configFile: false,
          logLevel: 'silent',
          server: { middlewareMode: true, hmr, watch: null },
        });
        t.teardown(() => vite.close());
        httpServer.on('request', vite.middlewares);
      },
      async check(port) {
        const url = `ws://127.0.0.1:${port}/?token=${vite.config.webSocketToken}`;
        t.is(JSON.parse(await ask(t, url, undefined, 'vite-hmr')).type, 'connected');
        const page = await fetch(`http://127.0.0.1:${port}/`, { headers: { accept: 'text/html' } });
        t.regex(await page.text(), /a page/);
      },
    };
  },

  async 'http-proxy-middleware'(t) {
    const { createProxyMiddleware } = await load('http-proxy-middleware');
    const target = http.createServer().listen(0, '127.0.0.1');
    t.teardown(() => target.close());
    new WebSocketServer({ server: target }).on('connection', greet);
    await once(target, 'listening');
    const httpServer = http.createServer();
    return {
      httpServer,
      start() {
        const proxy = createProxyMiddleware({
          target: `http://127.0.0.1:${target.address().port}`,
          pathFilter: '/theirs',
          ws: true,
        });
        httpServer.on('request', proxy).on('upgrade', proxy.upgrade);
      },
      check: async (port) => t.is(await ask(t, `ws://127.0.0.1:${port}/theirs`), 'hello'),
    };
  },

  async 'the WsAdapter of NestJS'(t) {
    await load('reflect-metadata');
    const { Module } = await load('@nestjs/common');
    const { NestFactory } = await load('@nestjs/core');
    const { WsAdapter } = await load('@nestjs/platform-ws');
    const { SubscribeMessage, WebSocketGateway } = await load('@nestjs/websockets');
    class Gateway {
      ask(_socket, data) {
        return { event: 'answer', data };
      }
    }
    const { prototype } = Gateway;
    WebSocketGateway({ path: '/theirs' })(Gateway);
    SubscribeMessage('ask')(prototype, 'ask', Object.getOwnPropertyDescriptor(prototype, 'ask'));
    class App {}
    Module({ providers: [Gateway] })(App);
    const app = await NestFactory.create(App, { logger: false });
    t.teardown(() => app.close());
    return {
      httpServer: app.getHttpServer(),
      async start() {
        app.useWebSocketAdapter(new WsAdapter(app));
        await app.init();
      },
      async check(port) {
        const question = JSON.stringify({ event: 'ask', data: 'hello' });
        const answer = JSON.parse(await ask(t, `ws://127.0.0.1:${port}/theirs`, question));
        t.deepEqual(answer, { event: 'answer', data: 'hello' });
      },
    };
  },
};

async function join(t, id, port) {
  const client = new WSMsgBroker(id, `ws://127.0.0.1:${port}/ws`, { protocol: 2 });
  t.teardown(() => client.close());
  client.handle((message) => message);
  return client.connected();
}

async function checkBeside(t, { httpServer, start, check }, order, way) {
  t.teardown(() => httpServer.close());
  if (way === 'bridged') {
    httpServer.prependListener('connection', (socket) => {
      socket.encrypted = true;
    });
  }
  if (order === 'after') await start();
  const server = new WSMsgBroker.Server(httpServer, '/ws');
  t.teardown(() => server.close());
  if (order === 'before') await start();
  httpServer.listen(0, '127.0.0.1');
  await server.ready;
  const { port } = httpServer.address();

  const a = await join(t, 'a', port);
  await check(port);
  await join(t, 'b', port);
  const long = 'x'.repeat(200_000);
  t.is((await a.request(long, 'b')).message, long);
  const { [way]: taken, connections } = server.stats();
  t.deepEqual([taken, connections], [2, 2]);
}

for (const [name, create] of Object.entries(NEIGHBOURS)) {
  for (const way of WAYS) {
    for (const order of ['before', 'after']) {
      test(`${name} works beside a broker attached ${order} it, ${way}`, async (t) => {
        t.timeout(30_000);
        await checkBeside(t, await create(t), order, way);
      });
    }
  }
}

test('an application of Fastify with TLS closes with its broker', async (t) => {
  const { default: fastify } = await load('fastify');
  t.timeout(30_000);
  const app = fastify({ https: trusted.issue() });
  const server = new WSMsgBroker.Server(app.server, '/ws');
  // A hook for onClose would be called after the connections of the HTTP server have ended.
  app.addHook('preClose', () => server.close());
  const address = await app.listen({ port: 0, host: '127.0.0.1' });
  const url = `wss://localhost:${new URL(address).port}/ws`;
  const client = new WSMsgBroker('a', url, { protocol: 2, tls: { ca: trusted.ca } });
  await client.connected();
  t.is(server.stats().bridged, 1);
  const closed = once(client, 'close');
  await app.close();
  t.is((await closed)[0], 1001);
});
