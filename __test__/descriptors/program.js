'use strict';

// Programs that open and close connections. They run in a process of their own, without descriptors of other
// tests. Each throws if a descriptor is left.

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const { fork } = require('node:child_process');
const { once } = require('node:events');
const WSMsgBroker = require('../..');

const ROUNDS = 5;
const CLIENTS = 40;
const PROGRAM = path.join(__dirname, 'servant.js');

const count = (pid = 'self') => fs.readdirSync(`/proc/${pid}/fd`).length;

/** A server in a process of its own. */
async function startServer() {
  const program = fork(PROGRAM, ['{}']);
  const [port] = await once(program, 'message');
  return { port, pid: program.pid, end: () => program.disconnect() };
}

/** Resolves when a process has at most `most` descriptors. */
async function fewer(pid, most) {
  while (count(pid) > most) await new Promise((resolve) => setTimeout(resolve, 10));
}

/** Opens clients, exchanges messages, and resolves when all clients are closed. */
async function round(port, kept, end) {
  const open = (n) =>
    new WSMsgBroker(`client ${n}`, `ws://127.0.0.1:${port}`, { protocol: 2 }).connected();
  const clients = await Promise.all(Array.from({ length: CLIENTS }, (_, n) => open(n)));
  kept.push(...clients);
  const ids = clients.map(({ id }) => id);
  for (const client of clients) {
    // The request is never answered and still pending when its clients close.
    client.request('?', `client ${CLIENTS / 2}`).catch(() => {});
    client.send('!', ids);
  }
  await Promise.all(clients.map((client) => client.deliver('last', client.id)));
  const closed = clients.map((client) => once(client, 'close'));
  end(clients);
  await Promise.all(closed);
}

/**
 * Clients closed by `end` keep no descriptor after their close event, neither in their process nor in the
 * server's.
 */
async function rounds(end) {
  const { port, pid, end: stop } = await startServer();
  const there = count(pid);
  const kept = [];
  await round(port, kept, end);
  const here = count();
  for (let n = 0; n < ROUNDS; n += 1) {
    await round(port, kept, end);
    assert.ok(count() <= here, `${count()} descriptors, ${here} before`);
  }
  await fewer(pid, there);
  assert.strictEqual(kept.length, (ROUNDS + 1) * CLIENTS);
  stop();
}

const PROGRAMS = {
  closed: () =>
    rounds((clients) => {
      for (const client of clients) client.close();
    }),

  disconnected: () => rounds(([client]) => client.send('disconnect', 'server')),

  async early() {
    const { port, end } = await startServer();
    const kept = [];
    const before = count();
    for (let n = 0; n < ROUNDS; n += 1) {
      const clients = Array.from(
        { length: CLIENTS },
        (_, k) => new WSMsgBroker(`client ${k}`, `ws://127.0.0.1:${port}`),
      );
      kept.push(...clients);
      // The connections are being opened.
      await new Promise(setImmediate);
      await Promise.all(clients.map((client) => client.close()));
    }
    // Descriptors of the threads that serve clients.
    await fewer('self', before + 10);
    end();
  },

  async participant() {
    const kept = [];
    const start = async () => {
      const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
      kept.push(server);
      await server.client.connected();
      const closed = once(server.client, 'close');
      await server.close();
      await closed;
    };
    await start();
    const before = count();
    for (let n = 0; n < ROUNDS; n += 1) await start();
    await fewer('self', before);
  },
};

PROGRAMS[process.argv[2]]();
