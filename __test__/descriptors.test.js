'use strict';

// A connection that has ended keeps no descriptor, neither of a client nor of a server, whoever still holds its
// object: a program that opens and closes many would run out of them before the garbage collection.

const fs = require('node:fs');
const path = require('node:path');
const { fork } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const { WSMsgBroker } = require('./support/start');

const ROUNDS = 5;
const CLIENTS = 40;
const PROGRAM = path.join(__dirname, 'support', 'servant.js');

const count = (pid = 'self') => fs.readdirSync(`/proc/${pid}/fd`).length;

/** A server in a process of its own. */
async function startServer(t, options = {}) {
  const program = fork(PROGRAM, [JSON.stringify(options)]);
  t.teardown(() => program.kill('SIGKILL'));
  const [port] = await once(program, 'message');
  return { port, pid: program.pid };
}

/** Resolves when a process has no more descriptors than that; how many it had at last, if it takes too long. */
async function fewer(pid, most) {
  for (let n = 0; n < 500 && count(pid) > most; n += 1) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return count(pid);
}

const linux = process.platform === 'linux' ? test.serial : test.skip;

/** Opens clients, lets them talk, and resolves when all are closed. */
async function round(port, kept, end) {
  const open = (n) =>
    new WSMsgBroker(`client ${n}`, `ws://127.0.0.1:${port}`, { protocol: 2 }).connected();
  const clients = await Promise.all(Array.from({ length: CLIENTS }, (_, n) => open(n)));
  kept.push(...clients);
  for (const client of clients) {
    // Nobody answers: the request is pending when its ends go.
    client.request('?', `client ${Math.floor(CLIENTS / 2)}`).catch(() => {});
    client.send(
      '!',
      clients.map(({ id }) => id),
    );
  }
  await Promise.all(clients.map((client) => client.deliver('last', client.id)));
  const closed = clients.map((client) => once(client, 'close'));
  end(clients);
  await Promise.all(closed);
}

const ENDS = {
  closes: (clients) => clients.map((client) => client.close()),
  'is disconnected': ([client]) => client.send('disconnect', 'server'),
};

for (const [how, end] of Object.entries(ENDS)) {
  linux(
    `a client that ${how} has no descriptor once it says so, and nor has its server`,
    async (t) => {
      const { port, pid } = await startServer(t);
      const there = count(pid);
      const kept = [];
      await round(port, kept, end);
      const here = count();
      for (let n = 0; n < ROUNDS; n += 1) {
        await round(port, kept, end);
        t.true(count() <= here, `${count()} descriptors, ${here} before`);
      }
      t.true((await fewer(pid, there)) <= there);
      t.is(kept.length, (ROUNDS + 1) * CLIENTS);
    },
  );
}

linux('clients that are closed before they are open have no descriptor', async (t) => {
  const { port } = await startServer(t);
  const kept = [];
  const before = count();
  for (let n = 0; n < ROUNDS; n += 1) {
    const clients = Array.from(
      { length: CLIENTS },
      (_, k) => new WSMsgBroker(`client ${k}`, `ws://127.0.0.1:${port}`),
    );
    kept.push(...clients);
    // Their connections are on their way.
    await new Promise(setImmediate);
    await Promise.all(clients.map((client) => client.close()));
  }
  t.true(count() <= before + 2, `${count()} descriptors, ${before} before`);
});

linux('a server that takes part itself leaves no descriptor behind', async (t) => {
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
  t.true((await fewer('self', before)) <= before);
});
