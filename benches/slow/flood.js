'use strict';

// A flood of 4 KB messages and its receiver, which reads nothing or at a given rate of bytes per second.
// After each period it reports the numbers of messages sent and received in order, and the longest delay.

const { once } = require('node:events');
const os = require('node:os');
const { frame, connect } = require('./socket');

const SIZE = 4096;

/** A message that begins with its number. */
function message(number) {
  const text = `${number} `.padEnd(SIZE, 'x');
  return frame(`{"action":"send","message":"${text}","dest":"deaf"}`);
}

/** Reads at a given rate and counts the messages that arrive in order. */
class Receiver {
  received = 0;
  #rest = Buffer.alloc(0);

  constructor(socket, rate) {
    socket.pause();
    if (rate === 'nothing') return;
    const start = performance.now();
    let taken = 0;
    setInterval(() => {
      let allowed = ((performance.now() - start) / 1000) * Number(rate) - taken;
      while (allowed > 0) {
        const chunk = socket.read(Math.min(socket.readableLength, Math.ceil(allowed)) || 1);
        if (chunk === null) break;
        taken += chunk.length;
        allowed -= chunk.length;
        this.#read(chunk);
      }
    }, 5);
  }

  #read(chunk) {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    // Two bytes of header, two of length.
    while (this.#rest.length >= 4) {
      if (this.#rest[0] === 0x89) {
        this.#rest = this.#rest.subarray(2);
        continue;
      }
      const end = 4 + this.#rest.readUInt16BE(2);
      if (this.#rest.length < end) return;
      const number = /"message":"(\d+) /.exec(this.#rest.toString('latin1', 4, 60));
      if (Number(number?.[1]) === this.received) this.received += 1;
      this.#rest = this.#rest.subarray(end);
    }
  }
}

async function main(port, rate, burst) {
  // The flood represents another machine, so it must not take processor time from the healthy pair.
  os.setPriority(os.constants.priority.PRIORITY_LOW);
  const deaf = await connect(port, 'deaf');
  const receiver = new Receiver(deaf, rate);
  const flooder = await connect(port, 'flooder');
  process.on('message', async (millis) => {
    const most = Number(burst) > 0 ? Math.ceil((Number(burst) * 1e6) / SIZE) : Infinity;
    const end = performance.now() + millis;
    let sent = 0;
    let held = 0;
    while (sent < most && (most < Infinity || performance.now() < end)) {
      const taken = flooder.write(message(sent));
      sent += 1;
      if (!taken) {
        const start = performance.now();
        const left = most < Infinity ? 600_000 : Math.max(end - start, 1);
        const timer = new Promise((resolve) => setTimeout(resolve, left).unref());
        await Promise.race([once(flooder, 'drain'), timer]);
        held = Math.max(held, performance.now() - start);
      }
    }
    while (most < Infinity && receiver.received < sent && !deaf.destroyed) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    process.send({ sent, held, received: receiver.received });
  });
  process.send('ready');
}

main(...process.argv.slice(2));
