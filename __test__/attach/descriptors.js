'use strict';

// Programs about the descriptors of an HTTP server whose sockets a broker takes over. Each prints JSON.

const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const WSMsgBroker = require('../..');
const { upgrade } = require('../support/upgrade');
const { spawn } = require('node:child_process');
const { once } = require('node:events');

const REQUEST = upgrade('/ws');

const descriptors = () => fs.readdirSync('/proc/self/fd').length;
const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

async function start() {
  const httpServer = http.createServer((_, res) => res.end('page'));
  const server = new WSMsgBroker.Server(httpServer, '/ws');
  httpServer.listen(0, '127.0.0.1');
  await server.ready;
  return { httpServer, server, port: httpServer.address().port };
}

function end({ httpServer, server }) {
  httpServer.close();
  httpServer.closeAllConnections();
  return server.close();
}

const programs = {
  /** Opens and closes many WebSockets beside requests for pages. */
  async many(count) {
    const all = await start();
    const { server, httpServer, port } = all;
    let collected = 0;
    const registry = new FinalizationRegistry(() => {
      collected += 1;
    });
    httpServer.prependListener('upgrade', (_, socket) => registry.register(socket));
    const one = async () => {
      const client = await new WSMsgBroker('', `ws://127.0.0.1:${port}/ws`);
      client.on('error', () => {});
      await once(client, 'open');
      await client.close();
      const [res] = await once(http.get({ port, host: '127.0.0.1', agent: false }), 'response');
      res.resume();
      await once(res, 'end');
    };
    await one();
    const settle = async () => {
      while (server.stats().connections > 0) await pause(1);
      await pause(100);
    };
    await settle();
    const before = descriptors();
    for (let n = 0; n < count; n += 20) await Promise.all(Array.from({ length: 20 }, one));
    await settle();
    for (let turn = 0; turn < 20 && collected < count; turn += 1) {
      global.gc();
      await pause(20);
    }
    const { handedOver, memory } = server.stats();
    console.log(JSON.stringify({ more: descriptors() - before, handedOver, collected, memory }));
    await end(all);
  },

  /** A request comes when no descriptor is left. */
  async full() {
    const all = await start();
    const errors = [];
    all.server.on('error', ({ code, cause }) => errors.push([code, cause.code]));
    const program = `
      const socket = require('net').connect(${all.port}, '127.0.0.1', () => console.log('up'));
      process.stdin.once('data', () => socket.write(${JSON.stringify(REQUEST)}));
      let text = '';
      socket.on('data', (data) => { text += data; });
      socket.on('close', () => { console.log(text); process.exit(); });`;
    const peer = spawn(process.execPath, ['-e', program], { stdio: ['pipe', 'pipe', 'inherit'] });
    let text = '';
    peer.stdout.on('data', (data) => {
      text += data;
    });
    while (!text.includes('up')) await pause(1);
    await pause(50);
    const held = [];
    try {
      for (;;) held.push(fs.openSync('/dev/null'));
    } catch {
      // All are taken.
    }
    peer.stdin.write('go');
    await once(peer, 'exit');
    for (const descriptor of held) fs.closeSync(descriptor);
    const socket = net.connect(all.port, '127.0.0.1');
    socket.write(REQUEST);
    const [answer] = await once(socket, 'data');
    socket.destroy();
    const status = (answer) => String(answer).match(/HTTP\/1\.1 (\d+)/)[1];
    console.log(JSON.stringify({ errors, refused: status(text), later: status(answer) }));
    await end(all);
  },
};

programs[process.argv[2]](Number(process.argv[3]));
