'use strict';

// The load of a broker with many connections, as a process: `node crowd.js port count slow`. Opens `count` connections
// that send to each other, some of which close and come back all the time, and `slow` receivers that read nothing, each
// with a sender. Prints a line once all are registered. Ends with its standard input.

const net = require('node:net');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const { frame, upgrade } = require('./upgrade');

const [port, count, slow] = process.argv.slice(2).map(Number);
/** Connections that are opened at a time. */
const BURST = 100;
/** Milliseconds between the steps of the load. */
const STEP = 100;
/** Messages, and connections that are replaced, in each step. */
const MESSAGES = Math.ceil(count / 100);
const REPLACED = Math.ceil(count / 2000);
const LARGE = 'x'.repeat(100_000);

/** A large frame without a mask key, written again and again. */
function largeFrame(dest) {
  const text = Buffer.from(JSON.stringify({ action: 'send', dest, message: LARGE }));
  const head = Buffer.alloc(14);
  head.set([0x81, 0xff]);
  head.writeBigUInt64BE(BigInt(text.length), 2);
  return Buffer.concat([head, text]);
}

/** Opens a connection with an id; resolves when it is registered. `reads`: until it ends. */
async function open(id, reads = true) {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', (error) => {
    throw error;
  });
  socket.write(Buffer.concat([Buffer.from(upgrade('/')), frame({ action: 'register', id })]));
  let received = '';
  while (!received.includes('"registered"')) received += (await once(socket, 'data'))[0];
  if (reads) socket.resume();
  else socket.pause();
  return socket;
}

const any = (list) => list[Math.floor(Math.random() * list.length)];

async function main() {
  const crowd = [];
  while (crowd.length < count) {
    const from = crowd.length;
    const burst = Array.from({ length: Math.min(BURST, count - from) }, async (_, n) => {
      const id = `client-${from + n}`;
      return { id, socket: await open(id) };
    });
    crowd.push(...(await Promise.all(burst)));
  }
  for (let n = 0; n < slow; n += 1) {
    await open(`slow-${n}`, false);
    const sender = await open(`sender-${n}`);
    const large = largeFrame(`slow-${n}`);
    for (let sent = 0; sent < 100; sent += 1) sender.write(large);
  }
  process.stdout.write('ready\n');
  for (;;) {
    for (let n = 0; n < MESSAGES; n += 1) {
      any(crowd).socket.write(frame({ action: 'send', dest: any(crowd).id, message: 'hello' }));
    }
    for (let n = 0; n < REPLACED; n += 1) {
      const member = any(crowd);
      member.socket.destroy();
      member.socket = await open(member.id);
    }
    await sleep(STEP);
  }
}

process.stdin.on('end', () => process.exit()).resume();
main();
