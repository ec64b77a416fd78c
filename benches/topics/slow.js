'use strict';

// One subscriber of 100 that does not read: what it loses, and what the others notice.

const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const { frame, open } = require('./wire');

const SUBSCRIBERS = 100;
/** Messages per second, and the bytes of each. */
const RATE = 2000;
const SIZE = 1000;
const SECONDS = 4;

/** The p99 in milliseconds of the time that a message takes to each of the fast subscribers. */
async function latency({ port }, hasSlow) {
  const latencies = [];
  const pad = 'x'.repeat(SIZE - 40);
  const pattern = /"at":([\d.]+)/g;
  for (let n = 0; n < SUBSCRIBERS; n += 1) {
    const socket = await open(port, `s${n}`);
    socket.write(frame('{"action":"subscribe","topic":"news"}'));
    await once(socket, 'data');
    if (n === 0 && hasSlow) {
      socket.pause();
    } else if (n > 0) {
      socket.on('data', (chunk) => {
        const now = performance.now();
        for (const [, at] of chunk.toString('latin1').matchAll(pattern)) latencies.push(now - at);
      });
    }
  }
  const sender = await open(port, 'sender');
  const begin = performance.now();
  for (let sent = 0; sent < RATE * SECONDS; ) {
    const due = ((performance.now() - begin) / 1000) * RATE;
    for (; sent < due; sent += 1) {
      const message = `{"at":${performance.now().toFixed(3)},"pad":"${pad}"}`;
      sender.write(frame(`{"action":"send","message":${message},"dest":{"topic":"news"}}`));
    }
    await sleep(1);
  }
  await sleep(200);
  latencies.sort((a, b) => a - b);
  return { p50: latencies[latencies.length >> 1], p99: latencies[(latencies.length * 0.99) | 0] };
}

module.exports = { latency };
