'use strict';

// The costs of kept topics: `node benches/kept.js [publish] [return] [restart] [memory]`. See README.md.
//
// The broker runs in a process of its own, on one processor if there are two; the load in this one, on raw sockets with
// frames that are encoded before.

const { fork, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const centrifuge = require('./kept/centrifuge');
const wire = require('./topics/wire');

const { bytes, frame } = wire;

const ROUNDS = 5;
const RETURNING = Number(process.env.CLIENTS ?? 2000);
const now = () => performance.now();
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
const show = (number) => Math.round(number).toLocaleString('en-US');
const MESSAGE = 'x'.repeat(100);
const publish = (topic) =>
  frame(`{"action":"send","message":"${MESSAGE}","dest":{"topic":"${topic}"}}`);

/** A connection whose broker may end before it. */
async function open(port, id) {
  return (await wire.open(port, id)).on('error', () => {});
}

/** Runs a broker on one processor. */
const pin = ({ pid }) => spawnSync('taskset', ['-apc', '0', String(pid)]);

/** A broker. `folder`: of its store; without one it keeps messages in memory. */
async function start(messages = 1_000_000, folder = undefined) {
  const keep = [{ topic: 'kept.>', messages, bytes: 2 ** 32, disk: folder !== undefined }];
  const store = folder && { path: folder };
  const script = path.join(__dirname, 'topics', 'broker.js');
  const broker = fork(script, [JSON.stringify({ keep, store, maxMemory: 2 ** 32 })]);
  pin(broker);
  const [{ port }] = await once(broker, 'message');
  const look = async () => {
    broker.send('look');
    return (await once(broker, 'message'))[0];
  };
  const end = async () => {
    broker.kill('SIGKILL');
    await once(broker, 'exit');
  };
  return { port, look, end };
}

/** Resolves with the first response that has this text. */
async function answer(socket, request, text) {
  socket.write(frame(request));
  let all = '';
  while (!all.includes(text)) {
    const [chunk] = await once(socket, 'data');
    all += chunk.toString('latin1');
  }
  return all;
}

const history = '{"action":"history","topic":"kept.a","limit":1,"ref":"last"}';

/** Deliveries per second of a topic with this number of subscribers. */
async function rate(topic, subscribers) {
  // Less than `maxBackpressure`: nothing is lost.
  const COUNT = Math.min(80_000, Math.round(800_000 / subscribers));
  const { port, end } = await start(100);
  const sockets = [];
  for (let n = 0; n < subscribers; n += 1) {
    const socket = await open(port, `s${n}`);
    await answer(socket, `{"action":"subscribe","topic":"${topic}"}`, '"subscribed"');
    sockets.push(socket);
  }
  const sender = await open(port, 'sender');
  const all = Buffer.concat(Array(COUNT).fill(publish(topic)));
  // The shortest frame of a message; those with offsets are longer.
  const text = `{"action":"message","message":"${MESSAGE}","from":"sender","topic":"${topic}"}`;
  const size = COUNT * (text.length + 4);
  const begin = now();
  const received = Promise.all(sockets.map((socket) => bytes(socket, size)));
  sender.write(all);
  await received;
  const seconds = (now() - begin) / 1000;
  await end();
  return (COUNT * subscribers) / seconds;
}

/** Time in which clients connect, subscribe and get 10 missed messages each, or none. */
async function returning(recovers) {
  const { port, end } = await start();
  const sender = await open(port, 'sender');
  for (let n = 0; n < 10; n += 1) sender.write(publish('kept.a'));
  const [, epoch] = /"epoch":"(\w+)"/.exec(await answer(sender, history, '"history"'));
  const time = await come(port, epoch, recovers);
  await end();
  return time;
}

/** Time in which all clients connect, 100 of them at a time, and get what `subscribe` asks for. */
async function connectAll(connect, subscribe, last) {
  const begin = now();
  const sockets = [];
  let next = 0;
  const worker = async () => {
    while (next < RETURNING) {
      next += 1;
      const socket = await connect(`c${next}`);
      sockets.push(socket);
      await answer(socket, subscribe, last);
    }
  };
  await Promise.all(Array.from({ length: 100 }, worker));
  const time = now() - begin;
  for (const socket of sockets) socket.destroy();
  return time;
}

function come(port, epoch, recovers) {
  const since = recovers ? `,"since":{"offset":0,"epoch":"${epoch}"}` : '';
  const subscribe = `{"action":"subscribe","topic":"kept.a"${since}}`;
  return connectAll((id) => open(port, id), subscribe, recovers ? '"offset":10}' : '"subscribed"');
}

/** The time of `returning` with messages on the disk, after a restart of the broker. */
async function restarted(recovers) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-bench-'));
  const former = await start(1_000_000, folder);
  const sender = await open(former.port, 'sender');
  for (let n = 1; n <= 10; n += 1) {
    const text = `{"action":"send","message":"${MESSAGE}","dest":{"topic":"kept.a"},"ref":${n}}`;
    await answer(sender, text, '"stored":"disk"');
  }
  const [, epoch] = /"epoch":"(\w+)"/.exec(await answer(sender, history, '"history"'));
  await former.end();
  const { port, end } = await start(1_000_000, folder);
  const time = await come(port, epoch, recovers);
  await end();
  fs.rmSync(folder, { recursive: true });
  return time;
}

/** The time of `returning` with a server of the Centrifuge library, whose messages are in memory. */
async function returningToCentrifuge(recovers) {
  const { child, port, epoch } = await centrifuge.start();
  pin(child);
  const { connect, subscribe } = centrifuge;
  const open = async () => (await wire.openWith(port, connect, '"id":1')).on('error', () => {});
  const last = recovers ? '"recovered":true' : '"id":2';
  const time = await connectAll(open, subscribe(recovers && epoch), last);
  child.kill('SIGKILL');
  return time;
}

/** Bytes of memory of a kept message of 100 bytes: resident, and charged. */
async function memory() {
  const COUNT = 500_000;
  const { port, look, end } = await start();
  const sender = await open(port, 'sender');
  const before = await look();
  const batch = Buffer.concat(Array(1000).fill(publish('kept.a')));
  for (let sent = 0; sent < COUNT; sent += 1000) {
    if (!sender.write(batch)) await once(sender, 'drain');
  }
  await answer(sender, history, '"history"');
  const after = await look();
  await end();
  return ['rss', 'charged'].map((name) => (after[name] - before[name]) / COUNT);
}

/** The medians of rounds of several measurements, which take turns. */
async function rounds(...measures) {
  const results = measures.map(() => []);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [n, measure] of measures.entries()) results[n].push(await measure());
  }
  return results.map(median);
}

const pair = (measure) => [() => measure(false), () => measure(true)];

function report(what, plain, recovers) {
  const ratio = (recovers / plain).toFixed(2);
  console.log(
    `${what}${show(RETURNING)} clients: ${show(plain)} ms, recovering 10 messages each ${show(recovers)} ms (${ratio})`,
  );
}

const BENCHES = {
  async publish() {
    for (const subscribers of [1, 100]) {
      const [other, kept] = await rounds(
        () => rate('other.a', subscribers),
        () => rate('kept.a', subscribers),
      );
      const ratio = (kept / other).toFixed(2);
      console.log(`1 -> ${subscribers}: ${show(other)}/s, kept ${show(kept)}/s (${ratio})`);
    }
  },
  async return() {
    report('', ...(await rounds(...pair(returning))));
  },
  async restart() {
    const measures = pair(restarted);
    if (centrifuge.build()) measures.push(...pair(returningToCentrifuge));
    const [plain, recovers, ...other] = await rounds(...measures);
    report('after a restart, ', plain, recovers);
    if (other.length > 0) report('of Centrifuge, without a restart, ', ...other);
  },
  async memory() {
    const [rss, charged] = await memory();
    console.log(
      `a kept message of 100 bytes: ${show(rss)} bytes resident, ${show(charged)} charged`,
    );
  },
};

async function main() {
  const names = process.argv.slice(2);
  for (const name of names.length > 0 ? names : Object.keys(BENCHES)) await BENCHES[name]();
}

main();
