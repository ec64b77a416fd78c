'use strict';

// Kills the broker and the receivers again and again, while numbered messages go to mailboxes.

const { fork, spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('../..');
const { lastingPort } = require('../../testkit/ports');

/** Deliveries of a sender that wait for their receipts. */
const WINDOW = 8;
/** Time between two kills in milliseconds: at least, and in addition at most. */
const PAUSE = [40, 260];
/** Time in which everything must have arrived at the end, in milliseconds. */
const END = 60_000;

/** The messages of one sender to one mailbox. */
class Stream {
  /** By number: what is known of a message. */
  #messages = [];
  #violations;
  #name;
  /** The greatest number that has arrived for the first time. */
  #newest = -1;
  redelivered = 0;
  duplicates = 0;
  stored = 0;

  constructor(name, violations) {
    this.#name = name;
    this.#violations = violations;
  }

  #violation(number, text) {
    this.#violations.push(`${this.#name}: message ${number} ${text}`);
  }

  /** A number for the next message. */
  next() {
    return this.#messages.push({ offsets: new Set() }) - 1;
  }

  onReceipt(number, name, { stored, failed, duplicates }) {
    if (stored.get(name) !== 'disk') {
      this.#violation(number, `was not stored: ${failed.get(name)?.code}`);
    }
    this.#messages[number].isStored = true;
    this.stored += 1;
    this.duplicates += duplicates.length;
  }

  onMessage({ number, offset, attempt, isDone }) {
    const message = this.#messages[number];
    if (isDone) {
      message.isDone = true;
      return;
    }
    if (message.offsets.size === 0) {
      if (number < this.#newest) {
        this.#violation(number, `arrived after ${this.#newest}`);
      }
      this.#newest = Math.max(this.#newest, number);
    } else {
      this.redelivered += 1;
      if (attempt === 1) {
        this.#violation(number, 'came again, and not as another attempt');
      }
    }
    message.offsets.add(offset);
    if (message.offsets.size > 1) {
      this.#violation(number, 'was stored twice');
    }
  }

  get isComplete() {
    return this.#messages.every(({ isDone }) => isDone);
  }

  end() {
    this.#messages.forEach(({ isStored, offsets }, number) => {
      if (isStored && offsets.size === 0) {
        this.#violation(number, 'was stored, and has not arrived');
      }
    });
    return this.#messages.length;
  }
}

/** A receiver process, started again whenever it is killed. */
class Receiver {
  #process;

  constructor(name, url, streams) {
    this.name = name;
    this.start = () => {
      const script = path.join(__dirname, 'receiver.js');
      const stdio = ['ignore', 'pipe', 'inherit'];
      const child = spawn(process.execPath, [script, name, url], { stdio });
      readline.createInterface({ input: child.stdout }).on('line', (line) => {
        try {
          const event = JSON.parse(line);
          streams.get(`${event.sender} ${name}`).onMessage(event);
        } catch {
          // The last line of a killed process.
        }
      });
      this.#process = child;
    };
    this.start();
  }

  async kill() {
    const child = this.#process;
    child.kill('SIGKILL');
    // Until all that it has reported is read.
    await once(child, 'close');
  }
}

module.exports = async function play({ kills, senders, receivers }) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-mail-'));
  const ends = [];
  const port = await lastingPort({ teardown: (end) => ends.push(end) });
  const url = `ws://127.0.0.1:${port}/`;
  const violations = [];
  const startBroker = async () => {
    const child = fork(path.join(__dirname, 'broker.js'), [folder, port]);
    await once(child, 'message');
    return child;
  };
  let broker = await startBroker();
  const streams = new Map();
  const names = Array.from({ length: receivers }, (_, n) => `receiver-${n}`);
  const ids = Array.from({ length: senders }, (_, n) => `sender-${n}`);
  for (const id of ids) {
    for (const name of names) {
      streams.set(`${id} ${name}`, new Stream(`${id} to ${name}`, violations));
    }
  }
  const all = names.map((name) => new Receiver(name, url, streams));
  const reconnect = { minDelay: 5, maxDelay: 50 };
  let isOver = false;
  const clients = [];
  const send = async (id) => {
    const client = new WSMsgBroker(id, url, { protocol: 2, reconnect, requestTimeout: END });
    clients.push(await client.connected());
    const open = new Set();
    for (let turn = 0; !isOver; turn += 1) {
      const name = names[turn % names.length];
      const stream = streams.get(`${id} ${name}`);
      const number = stream.next();
      const key = `${number} ${name}`;
      const delivery = client.deliver({ sender: id, number }, { mailbox: name }, { key }).then(
        (receipt) => stream.onReceipt(number, name, receipt),
        (error) => violations.push(`${id}: message ${number}: ${error.code}`),
      );
      open.add(delivery);
      delivery.then(() => open.delete(delivery));
      if (open.size === WINDOW) await Promise.race(open);
    }
    await Promise.all(open);
  };
  const sending = Promise.all(ids.map(send));
  const killed = { broker: 0, receivers: 0 };
  for (let n = 0; n < kills && violations.length === 0; n += 1) {
    await sleep(PAUSE[0] + Math.random() * PAUSE[1]);
    if (n % 2 === 0) {
      broker.kill('SIGKILL');
      await once(broker, 'exit');
      broker = await startBroker();
      killed.broker += 1;
    } else {
      const receiver = all[Math.floor(Math.random() * all.length)];
      await receiver.kill();
      receiver.start();
      killed.receivers += 1;
    }
  }
  isOver = true;
  await sending;
  const until = Date.now() + END;
  while (![...streams.values()].every((stream) => stream.isComplete) && Date.now() < until) {
    await sleep(50);
  }
  await Promise.all(all.map((receiver) => receiver.kill()));
  const sum = (value) => [...streams.values()].reduce((total, stream) => total + value(stream), 0);
  const messages = sum((stream) => stream.end());
  await Promise.all(clients.map((client) => client.close()));
  broker.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true });
  await Promise.all(ends.map((end) => end()));
  return {
    killed,
    messages,
    stored: sum(({ stored }) => stored),
    redelivered: sum(({ redelivered }) => redelivered),
    duplicates: sum(({ duplicates }) => duplicates),
    violations,
  };
};
