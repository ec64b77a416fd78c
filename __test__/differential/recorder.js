'use strict';

// The recording of one scenario: for each object (a client, a server, a raw socket) the ordered list of its
// observed events. The order between objects is recorded only where a scenario makes it an entry. Entries are
// plain JSON, so that recordings can be sent between processes and compared by value.

const crypto = require('node:crypto');

const ACK = /("ack":"|and ack = )([a-zA-Z0-9]{20})("|$)/g;
// Longer texts are recorded by length and digest, so that a difference remains readable.
const LONGEST_TEXT = 2000;
const SENTINEL = /sentinel-\d+/g;

class Recorder {
  #lines = new Map();
  #acks = new Map();
  #ports = new Set();
  #waiting = new Set();
  #sentinels = new Map();
  #nextSentinel = 1;
  #forgotten = new Set();
  #frozen = false;

  // Appends one entry to the list of `who`.
  log(who, ...entry) {
    if (this.#frozen || this.#forgotten.has(who)) return;
    if (!this.#lines.has(who)) this.#lines.set(who, []);
    this.#lines.get(who).push(entry.map((value) => this.#plain(value)));
    for (const waiter of this.#waiting) waiter.check();
  }

  // Resolves when `who` has logged `count` entries that begin with `event`, now or later.
  until(who, event, count = 1) {
    const seen = () =>
      (this.#lines.get(who) || []).filter(([name]) => name === event).length >= count;
    return this.when(seen, `${count} x "${event}" of ${who}`);
  }

  // Resolves when `holds()` is true. It is called again after each entry.
  when(holds, description) {
    if (holds()) return Promise.resolve();
    return new Promise((resolve) => {
      const waiter = {
        description,
        check: () => {
          if (!holds()) return;
          this.#waiting.delete(waiter);
          resolve();
        },
      };
      this.#waiting.add(waiter);
    });
  }

  // Waits for a promise under a name that the report of a stuck scenario can print.
  async awaits(promise, description) {
    const waiter = { description, check() {} };
    this.#waiting.add(waiter);
    try {
      return await promise;
    } finally {
      this.#waiting.delete(waiter);
    }
  }

  // A token to send after the tested frames: when it arrives, all earlier frames have arrived.
  sentinel() {
    const token = `sentinel-${this.#nextSentinel++}`;
    let resolve;
    const arrived = new Promise((done) => {
      resolve = done;
    });
    this.#sentinels.set(token, resolve);
    return { token, arrived: () => this.awaits(arrived, `${token} to arrive`) };
  }

  // True if the text contains a sentinel. It then counts as arrived and is not recorded.
  isSentinel(text) {
    const tokens = String(text).match(SENTINEL);
    if (!tokens) return false;
    for (const token of tokens) this.#sentinels.get(token)?.();
    return true;
  }

  // Ports differ between runs and are recorded as <port>.
  hidePort(port) {
    this.#ports.add(String(port));
  }

  // Removes an object from the recording for good, or its last entry of one event.
  forget(who) {
    this.#forgotten.add(who);
    this.#lines.delete(who);
  }

  forgetLast(who, event) {
    const lines = this.#lines.get(who) || [];
    const last = lines.findLastIndex(([name]) => name === event);
    if (last >= 0) lines.splice(last, 1);
  }

  freeze() {
    this.#frozen = true;
  }

  recording() {
    return Object.fromEntries([...this.#lines].sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  // The awaited conditions of a stuck scenario and its recording so far.
  stuck() {
    const waiting = [...this.#waiting].map((waiter) => waiter.description).join(', ');
    return `waiting for: ${waiting || 'nothing known'}; seen so far: ${JSON.stringify(this.recording(), null, 1)}`;
  }

  #plain(value) {
    if (value === undefined) return '<undefined>';
    if (typeof value === 'function') return '<function>';
    if (typeof value === 'bigint') return `<${value}n>`;
    if (typeof value === 'number' && !Number.isFinite(value)) return `<${value}>`;
    if (typeof value === 'string') return this.#text(value);
    if (value instanceof Error) return `<${value.name}: ${this.#text(value.message)}>`;
    if (value instanceof Promise) return '<promise>';
    if (Buffer.isBuffer(value)) return `<${value.toString('hex')}>`;
    if (Array.isArray(value)) return value.map((item) => this.#plain(item));
    if (value === null || typeof value !== 'object') return value;
    if (typeof value.send === 'function') return '<response>';
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, this.#plain(item)]));
  }

  // Acks made by a client are random and are numbered as they appear.
  #text(text) {
    let plain = text.replace(ACK, (_, before, ack, after) => {
      if (!this.#acks.has(ack)) this.#acks.set(ack, `<ack ${this.#acks.size + 1}>`);
      return before + this.#acks.get(ack) + after;
    });
    for (const port of this.#ports) plain = plain.replaceAll(`:${port}`, ':<port>');
    if (plain.length <= LONGEST_TEXT) return plain;
    const digest = crypto.createHash('sha1').update(plain).digest('hex');
    return `${plain.slice(0, 60)}... <${plain.length} characters, ${digest}>`;
  }
}

module.exports = { Recorder };
