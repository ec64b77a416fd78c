'use strict';

// The costs of subscriptions and of presence: `node benches/topics.js [subscriptions] [presence] [slow]`. See README.md.
//
// The broker runs in a process of its own, on one processor if there are two; the load in this one, on raw sockets with
// frames that are encoded before.

const { fork, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const presence = require('./topics/presence');
const { latency } = require('./topics/slow');
const { bytes, frame, open } = require('./topics/wire');

const ROUNDS = 5;
const now = () => performance.now();
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
const show = (number) => Math.round(number).toLocaleString('en-US');

async function start() {
  const broker = fork(path.join(__dirname, 'topics', 'broker.js'));
  spawnSync('taskset', ['-apc', '0', String(broker.pid)]);
  const [{ port }] = await once(broker, 'message');
  const look = async () => {
    broker.send('look');
    return (await once(broker, 'message'))[0];
  };
  return { port, look, end: () => broker.kill('SIGKILL') };
}

const subscribe = (topic) => frame(`{"action":"subscribe","topic":"${topic}"}`);
/** Bytes of the response to a `subscribe`. */
const RESPONSE = (topic) => `{"action":"subscribed","topic":"${topic}"}`.length + 2;

/** Subscribes to topics, and waits for the confirmations. */
async function subscribeTo(socket, topics) {
  const confirmed = bytes(
    socket,
    topics.reduce((sum, topic) => sum + RESPONSE(topic), 0),
  );
  socket.write(Buffer.concat(topics.map(subscribe)));
  await confirmed;
}

/** Subscriptions per second of one connection, each of another topic. */
async function rate() {
  const COUNT = 1000;
  const { port, end } = await start();
  const sockets = [];
  for (let n = 0; n < 200; n += 1) sockets.push(await open(port, `c${n}`));
  const all = sockets.map((_, n) => [...Array(COUNT).keys()].map((k) => `t${n}.${k}`));
  const encoded = all.map((topics) => Buffer.concat(topics.map(subscribe)));
  const sizes = all.map((topics) => topics.reduce((sum, topic) => sum + RESPONSE(topic), 0));
  const begin = now();
  for (const [n, socket] of sockets.entries()) {
    const confirmed = bytes(socket, sizes[n]);
    socket.write(encoded[n]);
    await confirmed;
  }
  const seconds = (now() - begin) / 1000;
  end();
  return (sockets.length * COUNT) / seconds;
}

/** Bytes of resident memory of a subscription: 500 connections, 100 each, of 1,000 topics. */
async function memory(name) {
  const { port, look, end } = await start();
  const sockets = [];
  for (let n = 0; n < 500; n += 1) sockets.push(await open(port, `c${n}`));
  // The buffers of the sockets and of the threads have their size then.
  for (const socket of sockets) await subscribeTo(socket, ['warm.up']);
  await sleep(500);
  const before = await look();
  for (const [n, socket] of sockets.entries()) {
    await subscribeTo(
      socket,
      [...Array(100).keys()].map((k) => name((n * 37 + k * 10) % 1000)),
    );
  }
  await sleep(500);
  const after = await look();
  end();
  return {
    rss: (after.rss - before.rss) / 50_000,
    charged: (after.charged - before.charged) / 50_000,
  };
}

/** Messages per second to a topic with 10 subscribers, among so many other patterns with wildcards. */
async function among(others) {
  const { port, end } = await start();
  const sockets = [];
  for (let n = 0; n < Math.ceil(others / 1000); n += 1) {
    const socket = await open(port, `o${n}`);
    const count = Math.min(1000, others - n * 1000);
    await subscribeTo(
      socket,
      [...Array(count).keys()].map((k) => (n < 60 ? `other.${n}.*.${k}` : `other.${n}.${k}`)),
    );
    sockets.push(socket);
  }
  const receivers = [];
  for (let n = 0; n < 10; n += 1) {
    const socket = await open(port, `r${n}`);
    await subscribeTo(socket, ['news.*']);
    receivers.push(socket);
  }
  const sender = await open(port, 's');
  const COUNT = 500;
  const text = JSON.stringify({ text: 'x'.repeat(89) });
  const batch = Buffer.concat(
    Array(COUNT).fill(frame(`{"action":"send","message":${text},"dest":{"topic":"news.eu"}}`)),
  );
  const size = `{"action":"message","message":${text},"from":"s","topic":"news.eu"}`.length;
  const each = COUNT * (size + (size < 126 ? 2 : 4));
  const once = async () => {
    const arrived = receivers.map((socket) => bytes(socket, each));
    sender.write(batch);
    await Promise.all(arrived);
  };
  for (let n = 0; n < 100; n += 1) await once();
  const begin = now();
  let sent = 0;
  while (now() - begin < 2000) {
    await once();
    sent += COUNT;
  }
  const seconds = (now() - begin) / 1000;
  end();
  return sent / seconds;
}

async function rounds(measure, ...args) {
  const values = [];
  for (let n = 0; n < ROUNDS; n += 1) values.push(await measure(...args));
  return values;
}

async function subscriptions() {
  const rates = await rounds(rate);
  console.log(`| subscribes/s, one connection after the other | ${show(median(rates))} |`);
  for (const [what, name] of [
    ['topics', (n) => `topic.${n}`],
    ['patterns with wildcards', (n) => `topic.*.${n}`],
  ]) {
    const values = await rounds(memory, name);
    const rss = median(values.map((value) => value.rss));
    const charged = median(values.map((value) => value.charged));
    console.log(
      `| bytes of a subscription, 500 x 100 of 1,000 ${what} | ${show(rss)} (charged: ${show(charged)}) |`,
    );
  }
  const [few, many] = [[], []];
  // By turns, because the machine is not equally fast all the time.
  for (let n = 0; n < ROUNDS; n += 1) {
    few.push(await among(10));
    many.push(await among(100_000));
  }
  const ratio = median(many.map((rate, n) => rate / few[n]));
  console.log(`| messages/s to 10 subscribers among 10 other patterns | ${show(median(few))} |`);
  console.log(
    `| among 100,000 (60,000 with wildcards) | ${show(median(many))} (${ratio.toFixed(2)}x) |`,
  );
}

/** Runs a measure with a broker of its own. */
async function alone(measure, ...args) {
  const broker = await start();
  try {
    return await measure(broker, ...args);
  } finally {
    broker.end();
  }
}

async function ofPresence() {
  for (const count of [1000, 2000]) {
    const all = await rounds(alone, presence.reconnect, count);
    const of = (name) => median(all.map((one) => one[name]));
    console.log(
      `| ${show(count)} members reconnect and all watch: frames of a watcher | ${of('mean').toFixed(1)}, at most ${of('most')} (${show(of('bytes'))} bytes, ${of('seconds').toFixed(1)} s) |`,
    );
  }
  const all = await rounds(alone, presence.memory);
  for (const [what, name] of [
    ['a watch of an id', 'id'],
    ['a member', 'member'],
  ]) {
    const of = (place) => show(median(all.map((one) => one[name][place])));
    console.log(`| bytes of ${what}, 500 x 100 | ${of(0)} (charged: ${of(1)}) |`);
  }
}

async function ofSlow() {
  const [quiet, slow] = [[], []];
  for (let n = 0; n < ROUNDS; n += 1) {
    quiet.push(await alone(latency, false));
    slow.push(await alone(latency, true));
  }
  const ratio = (name) => median(slow.map((one, n) => one[name] / quiet[n][name])).toFixed(2);
  const of = (list, name) => median(list.map((one) => one[name])).toFixed(2);
  console.log(`| p50, p99 of 99 fast subscribers, ms | ${of(quiet, 'p50')}, ${of(quiet, 'p99')} |`);
  console.log(
    `| beside one that does not read | ${of(slow, 'p50')}, ${of(slow, 'p99')} (${ratio('p50')}x, ${ratio('p99')}x) |`,
  );
}

async function main() {
  const measures = { subscriptions, presence: ofPresence, slow: ofSlow };
  const wanted = process.argv.slice(2);
  console.log(`| measure | median of ${ROUNDS} |\n| --- | --- |`);
  for (const [name, measure] of Object.entries(measures)) {
    if (wanted.length === 0 || wanted.includes(name)) await measure();
  }
}

main();
