'use strict';

// Short programs, each run by lifecycle.test.js in a process of its own to test how it ends.
// usage: node programs.js NAME [ARGUMENT ...]

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const { once } = require('node:events');
const { setImmediate: turn, setTimeout: pause } = require('node:timers/promises');
const { Worker } = require('node:worker_threads');
const WSMsgBroker = require('../..');
const { traffic, host } = require('./traffic');

const programs = {
  async exit() {
    await traffic();
    process.exit(7);
  },

  async flow() {
    await traffic();
    console.log('flowing');
  },

  async 'close on SIGTERM'() {
    const { close } = await traffic();
    process.on('SIGTERM', close);
    console.log('flowing');
  },

  async 'throw in a timer'() {
    await traffic();
    setImmediate(() => {
      throw new Error('thrown on purpose');
    });
  },

  async 'throw in a listener'() {
    const { clients } = await traffic();
    clients[0].on('message', () => {
      throw new Error('thrown on purpose');
    });
  },

  // One request is never answered: its timer must not keep the process alive.
  async 'close everything'() {
    const { server, clients } = await open('asker', 'mute');
    const asked = once(clients[1], 'message');
    clients[0].send('question', 'mute', () => {});
    await asked;
    for (const client of clients) client.close();
    server.close();
  },

  async 'close the server only'() {
    const { server } = await open('one', 'two');
    server.close();
  },

  // The unreferenced timer fires only while something else keeps the process alive.
  async 'stay with a server'() {
    const server = new WSMsgBroker.Server({ port: 0, host });
    await once(server, 'listening');
    setTimeout(() => {
      console.log('alive');
      server.close();
    }, 300).unref();
  },

  async 'stay with a client'(port) {
    const client = new WSMsgBroker('child', host, port);
    await once(client, 'registered');
    setTimeout(() => {
      console.log('alive');
      client.close();
    }, 300).unref();
  },

  async 'send and exit'(port, count) {
    const client = new WSMsgBroker('child', host, port);
    await once(client, 'registered');
    for (let n = 0; n < Number(count); n += 1) client.send({ n, text: 'x'.repeat(1000) }, 'parent');
    process.exit(0);
  },

  // During garbage collection, only the addon references the server and the echoing client.
  async 'collect garbage'() {
    const port = await (async () => {
      const server = new WSMsgBroker.Server({ port: 0, host });
      await once(server, 'listening');
      return server.address().port;
    })();
    await (async () => {
      const echo = new WSMsgBroker('echo', host, port);
      echo.on('message', (message, response) => response.send(message));
      await once(echo, 'registered');
    })();
    const asker = new WSMsgBroker('asker', host, port);
    await once(asker, 'registered');
    for (let n = 0; n < 50; n += 1) {
      await turn();
      global.gc();
      const answer = await new Promise((resolve) => {
        asker.send(n, 'echo', (_from, answer) => resolve(answer));
        global.gc();
      });
      assert.strictEqual(answer, n);
    }
    console.log('answered');
    process.exit(0);
  },

  async 'survive a listener that throws'() {
    const caught = [];
    process.on('uncaughtException', (error) => caught.push(error.message));
    const { server, clients } = await open('sender', 'receiver');
    const unregistered = once(server, 'unregistered');
    server.on('unregistered', (id) => {
      throw new Error(`server: ${id}`);
    });
    const seen = [];
    const last = new Promise((resolve) => {
      clients[1].on('message', (message) => {
        seen.push(message);
        if (message === 4) resolve();
        else if (message % 2 === 1) throw new Error(`client: ${message}`);
      });
    });
    // In one tick, so that they reach JavaScript in one batch.
    for (const n of [1, 2, 3, 4]) clients[0].send(n, 'receiver');
    await last;
    const answer = new Promise((resolve) => clients[0].send('self', 'sender', resolve));
    clients[0].once('message', (_message, response) => response.send('answer'));
    await answer;
    clients[1].close();
    await unregistered;
    await turn();
    assert.deepStrictEqual(seen, [1, 2, 3, 4]);
    assert.deepStrictEqual(caught, ['client: 1', 'client: 3', 'server: receiver']);
    console.log('survived');
    process.exit(0);
  },

  async 'end workers'(repeat) {
    const ways = ['while flowing', 'while opening', 'by process.exit'];
    let settled;
    for (let n = 0; n < Number(repeat); n += 1) {
      const way = ways[n % ways.length];
      const worker = new Worker(path.join(__dirname, 'worker.js'), { workerData: way });
      if (way === 'by process.exit') assert.deepStrictEqual(await once(worker, 'exit'), [1]);
      else {
        await once(worker, 'message');
        await worker.terminate();
      }
      // Descriptors that the first rounds open permanently (e.g. of a runtime) are not a leak.
      if (n === ways.length - 1) settled = await descriptors();
    }
    if (settled) assert.ok((await descriptors(settled)) <= settled, 'descriptors leak');
    console.log('ended');
  },

  // Three environments at the same time. The end of one does not affect the others.
  async 'share with workers'() {
    const { server, clients, port } = await open('main');
    const ask = (id) =>
      new Promise((resolve) => clients[0].send('who', id, (from) => resolve(from)));
    const workers = [];
    for (const id of ['first', 'second']) {
      const registered = once(server, 'registered');
      const workerData = { id, host, port };
      workers.push(new Worker(path.join(__dirname, 'peer.js'), { workerData }));
      assert.strictEqual((await registered)[0], id);
      assert.strictEqual(await ask(id), id);
    }
    const unregistered = once(server, 'unregistered');
    await workers[0].terminate();
    assert.deepStrictEqual(await unregistered, ['first']);
    assert.strictEqual(await ask('second'), 'second');
    const closed = once(server, 'unregistered');
    await workers[1].terminate();
    assert.deepStrictEqual(await closed, ['second']);
    await Promise.all([clients[0].close(), server.close()]);
    console.log('shared');
  },
};

async function open(...ids) {
  const server = new WSMsgBroker.Server({ port: 0, host });
  await once(server, 'listening');
  const { port } = server.address();
  const clients = ids.map((id) => new WSMsgBroker(id, host, port));
  await Promise.all(clients.map((client) => once(client, 'registered')));
  return { server, clients, port };
}

// The number of open descriptors once it is at most `wanted`, or after ten seconds; 0 without /proc. Threads
// of the addon close sockets shortly after the environment has ended.
async function descriptors(wanted = Infinity) {
  const folder = '/proc/self/fd';
  if (!fs.existsSync(folder)) return 0;
  const deadline = Date.now() + 10_000;
  for (;;) {
    const count = fs.readdirSync(folder).length;
    if (count <= wanted || Date.now() > deadline) return count;
    await pause(20);
  }
}

programs[process.argv[2]](...process.argv.slice(3));
