'use strict';

// A peer whose broker is killed and restarted. It uses every way to send, and answers requests.

/** Maximum number of pending promises. */
const MOST_OPEN = 24;
/** Bytes queued while the broker is down. */
const MOST_QUEUED = 16 * 1024;
const TALK_MS = 1;

class Peer {
  /** Number of its connections. All but the last have ended with their broker. */
  connection = 0;
  isUp = false;
  #open = 0;
  #timer;

  constructor({ id, client, isResending, others, ledger, random }) {
    Object.assign(this, { id, client, isResending, others, ledger, random });
    client.on('registered', () => {
      this.connection += 1;
      this.isUp = true;
    });
    client.on('reconnecting', () => {
      this.isUp = false;
    });
    client.on('message', (...args) => this.#hear(...args));
    const unexpected = (name) => (what) => ledger.faults.push({ id, what: `${name}: ${what}` });
    for (const name of ['error', 'close', 'replaced']) client.on(name, unexpected(name));
  }

  talk() {
    this.#timer ??= setInterval(() => {
      if (this.#open < MOST_OPEN && this.client.bufferedAmount < MOST_QUEUED) this.#say();
    }, TALK_MS);
  }

  /** Stops sending. Pending requests may still be answered. */
  hush() {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #say() {
    const { random } = this;
    const what = random.pick(['send', 'send', 'deliver', 'request', 'requestAll']);
    const several = what === 'requestAll' || random.chance(0.2);
    const ids = several ? this.others.filter(() => random.chance(0.5)) : [random.pick(this.others)];
    if (ids.length > 0) this[what](ids);
  }

  /** A message with numbers for each receiver. */
  #message(ids, isRepeatable) {
    const { id, ledger } = this;
    return Object.fromEntries(ids.map((to) => [to, ledger.number(id, to, isRepeatable)]));
  }

  send(ids) {
    this.client.send(this.#message(ids), ids);
  }

  deliver(ids) {
    const message = this.#message(ids);
    const told = ({ delivered, failed }) => {
      if ([...delivered, ...failed.keys()].sort().join() !== [...ids].sort().join()) return 'wrong';
      for (const to of ids) {
        const isDelivered = delivered.includes(to);
        this.ledger.told(this.id, to, message[to].once, isDelivered, this.connection);
      }
      return codes(delivered, failed);
    };
    return this.#await('deliver', this.client.deliver(message, ids), told);
  }

  request(ids) {
    const message = this.#message(ids, this.isResending);
    const isRight = (answer) =>
      ids.includes(answer.from) && answer.message === message[answer.from].n;
    const asked = this.client.request(message, ids, { timeout: Infinity });
    return this.#await('request', asked, (answer) => (isRight(answer) ? 'fine' : 'wrong'));
  }

  requestAll(ids) {
    const message = this.#message(ids, this.isResending);
    const asked = this.client.requestAll(message, ids, { timeout: Infinity });
    return this.#await('requestAll', asked, ({ answers, failed }) => {
      const isRight = [...answers].every(([id, n]) => n === message[id].n);
      const isWhole =
        [...answers.keys(), ...failed.keys()].sort().join() === [...ids].sort().join();
      return isRight && isWhole ? codes([...answers], failed) : 'wrong';
    });
  }

  async #await(what, promise, describe) {
    this.#open += 1;
    const name = what === 'deliver' || !this.isResending ? what : `resent ${what}`;
    await this.ledger.settle(name, promise, describe);
    this.#open -= 1;
  }

  #hear(message, response, from) {
    const numbers = message[this.id];
    this.ledger.arrive(from, this.id, this.connection, numbers);
    if (!response) return;
    // Some requests are in flight or unanswered when the broker is killed.
    if (this.random.chance(0.5)) response.send(numbers.n);
    else setTimeout(() => response.send(numbers.n), this.random.int(0, 10));
  }
}

/** The outcome as text: each of the occurring codes once. */
function codes(fine, failed) {
  const found = new Set([...failed.values()].map((error) => error.code ?? error));
  return [...(fine.length > 0 ? ['fine'] : []), ...[...found].sort()].join(', ');
}

module.exports = Peer;
