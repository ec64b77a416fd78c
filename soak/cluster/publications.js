'use strict';

// Messages published to topics, and the messages and gaps of each subscription, recorded separately and compared at the
// end.
//
// A stream is the messages of one publisher to one topic, numbered from 0. Its order holds for messages that were sent
// and received on the same two connections.

const { matches } = require('../../lib/client/topics');
const { RECOVERY, WINDOW } = require('./history');

/** A new subscription reaches messages of other brokers within a second. */
const START = 1000;
/** A message can be delayed by a fault for at most so long, in milliseconds. */
const MAX_DELAY = 10_000;

/** The text of a message, from which each alteration is detected. */
function body(from, topic, number, size) {
  const head = `${from} ${topic} ${number} `;
  return head + String.fromCharCode(97 + (number % 26)).repeat(Math.max(size - head.length, 0));
}

class Publications {
  #history;
  /** By publisher and topic: `{ from, topic, sent }`. */
  #streams = new Map();
  #receivers = [];
  arrived = 0;
  faults = [];

  constructor(history) {
    this.#history = history;
  }

  /** Records a message that is about to be sent on this connection. Returns the message. */
  send(connection, topic, size) {
    const from = connection.id;
    const name = `${from} ${topic}`;
    const stream = this.#streams.get(name) ?? { name, from, topic, sent: [] };
    this.#streams.set(name, stream);
    const number = stream.sent.push({ at: Date.now(), connection, size }) - 1;
    return { number, text: body(from, topic, number, size) };
  }

  /** Adds a subscription of an id; across its connections. `isSlow`: it reads slowly. */
  receiver(id, pattern, isSlow = false) {
    const receiver = { id, pattern, isSlow, seen: new Map(), connections: new Map() };
    this.#receivers.push(receiver);
    return receiver;
  }

  #part(receiver, connection) {
    const part = receiver.connections.get(connection) ?? {
      from: Date.now(),
      gaps: new Map(),
      got: new Map(),
    };
    receiver.connections.set(connection, part);
    return part;
  }

  /** Records that the subscription has begun on this connection, now or `ago` milliseconds ago. */
  begun(receiver, connection, ago = 0) {
    this.#part(receiver, connection).from -= ago;
  }

  /** Records a `gap`. */
  gap(receiver, connection, { topic, lost }) {
    const { gaps } = this.#part(receiver, connection);
    gaps.set(topic, (gaps.get(topic) ?? 0) + lost);
  }

  /** Records a message that a subscription has received. */
  got(receiver, connection, message, from, topic) {
    this.arrived += 1;
    const name = `${from} ${topic}`;
    const stream = this.#streams.get(name);
    const { number, text } = message;
    const entry = stream?.sent[number];
    const what = `${receiver.id} ${receiver.pattern}: ${name} ${number}`;
    if (!entry || !matches(receiver.pattern, topic)) {
      this.faults.push(`${what} was never sent to it`);
      return;
    }
    if (text !== body(from, topic, number, entry.size)) this.faults.push(`${what} was altered`);
    const seen = receiver.seen.get(name) ?? [];
    receiver.seen.set(name, seen);
    seen[number] ??= [];
    seen[number].push(connection);
    const { got } = this.#part(receiver, connection);
    const numbers = got.get(name) ?? { all: new Set(), last: -1, reordered: [] };
    got.set(name, numbers);
    if (number < numbers.last && !numbers.all.has(number)) {
      numbers.reordered.push({ number, last: numbers.last });
    }
    numbers.all.add(number);
    numbers.last = Math.max(numbers.last, number);
  }

  /** Whether so many messages have been received that none is missing but those that a fault or a gap may explain. */
  close() {
    const counts = {
      received: this.arrived,
      published: 0,
      'lost, in a gap': 0,
      'lost between brokers, during a fault': 0,
      'lost when a connection changed': 0,
      'received again on another connection, by way of another broker': 0,
      'gaps that were compared': 0,
    };
    for (const { sent } of this.#streams.values()) counts.published += sent.length;
    for (const receiver of this.#receivers) {
      this.#checkDuplicates(receiver, counts);
      for (const [connection, part] of receiver.connections) {
        this.#checkPart(receiver, connection, part, counts);
      }
    }
    return counts;
  }

  #checkDuplicates(receiver, counts) {
    for (const [name, seen] of receiver.seen) {
      for (const [number, connections] of seen.entries()) {
        if (!connections || connections.length === 1) continue;
        // The copy for another broker may be late, and find the subscriber there.
        if (new Set(connections.map(({ broker }) => broker)).size === connections.length) {
          counts['received again on another connection, by way of another broker'] += 1;
        } else {
          const at = connections.map(({ broker, from }) => `${broker} since ${from}`).join(', ');
          this.faults.push(
            `${receiver.id} ${receiver.pattern}: ${name} ${number} arrived ${connections.length} times (${at})`,
          );
        }
      }
    }
  }

  #checkPart(receiver, connection, { from, gaps, got }, counts) {
    const byTopic = new Map([...gaps.keys()].map((topic) => [topic, { must: [], may: 0 }]));
    for (const { name, topic, sent } of this.#streams.values()) {
      if (!matches(receiver.pattern, topic)) continue;
      const numbers = got.get(name) ?? { all: new Set(), last: -1, reordered: [] };
      this.#checkOrder(receiver, name, sent, numbers);
      const lost = byTopic.get(topic) ?? { must: [], may: 0 };
      byTopic.set(topic, lost);
      const until = connection.until + WINDOW;
      for (let n = firstAfter(sent, from - MAX_DELAY); n < sent.length; n += 1) {
        const entry = sent[n];
        if (entry.at > until) break;
        if (numbers.all.has(n)) continue;
        lost.may += 1;
        const cause = this.#cause(receiver, { ...connection, from }, entry, n < numbers.last);
        if (cause) {
          if (entry.at >= from && entry.at <= connection.until) counts[cause] += 1;
        } else {
          lost.must.push(`${name} ${n} (sent at ${entry.connection.broker} at ${entry.at})`);
        }
      }
    }
    for (const [topic, { must, may }] of byTopic) {
      const gap = gaps.get(topic) ?? 0;
      const at = `${receiver.id} ${receiver.pattern}, at ${connection.broker} since ${from}`;
      if (gap > 0) counts['gaps that were compared'] += 1;
      counts['lost, in a gap'] += gap;
      if (must.length > gap) {
        const list = must.slice(0, 5).join(', ');
        this.faults.push(`${at}: ${must.length} of ${topic} are missing, gaps ${gap}: ${list}`);
      }
      if (gap > may)
        this.faults.push(`${at}: gaps of ${gap} of ${topic}, but at most ${may} are missing`);
    }
  }

  #checkOrder(receiver, name, sent, { reordered }) {
    for (const { number, last } of reordered) {
      const [one, other] = [sent[number], sent[last]];
      // The sender has perhaps sent the second one on its next connection.
      const isNear = (entry) => entry.connection.until - entry.at < WINDOW;
      if (one.connection === other.connection && !isNear(one) && !isNear(other)) {
        this.faults.push(
          `${receiver.id} ${receiver.pattern}: ${name} ${number} arrived after ${last}`,
        );
      }
    }
  }

  /** Why a message may be missing without a gap; undefined if there is no reason. */
  #cause(receiver, connection, { at, connection: sender }, isBetween) {
    const isLocal = sender.broker === connection.broker;
    const begun = connection.from + (isLocal ? 0 : START) + START;
    // Messages that wait for a slow subscriber are lost with its connection, however old they are.
    const isKept = connection.until === Number.POSITIVE_INFINITY || (receiver.isSlow && isBetween);
    const isOver = !isKept && (receiver.isSlow || connection.until < at + WINDOW);
    if (at < begun || isOver || sender.until < at + WINDOW) return 'lost when a connection changed';
    const brokers = [sender.broker, connection.broker];
    if (!isLocal && this.#history.isDisturbed(brokers, at - RECOVERY, at + RECOVERY)) {
      return 'lost between brokers, during a fault';
    }
    return undefined;
  }
}

/** The index of the first message at or after this time. */
function firstAfter(sent, time) {
  let [low, high] = [0, sent.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sent[middle].at < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

module.exports = Publications;
