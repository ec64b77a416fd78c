'use strict';

// The subscriptions of a client across its connections.

const { coded, remote } = require('./errors');
const frames = require('./frames');
const Subscription = require('./subscription');
const { matches } = require('./topics');

/**
 * An entry:
 *
 *     subscription   the object of the program
 *     resolve, reject  of the promise of `subscribe()`
 *     isEnding       the program has ended it
 *     ended          the promise of `unsubscribe()`, and its `resolveEnd`
 */
class Subscriptions {
  #session;
  /** By the number that the frames of a subscription have as `ref`. */
  #entries = new Map();

  constructor(session) {
    this.#session = session;
  }

  /** Subscribes, at once or when the client is registered. Resolves with a `Subscription`. */
  add(topic, slow) {
    const session = this.#session;
    const number = session.requests.nextReference();
    return new Promise((resolve, reject) => {
      const end = () => this.#end(number);
      const subscription = new Subscription(session, topic, slow, end);
      this.#entries.set(number, { subscription, resolve, reject });
      if (session.isRegistered) {
        this.#send(number);
      }
    });
  }

  /** Subscribes again on a new connection. */
  onRegistered() {
    for (const number of [...this.#entries.keys()]) {
      this.#send(number);
    }
  }

  #send(number) {
    const session = this.#session;
    const entry = this.#entries.get(number);
    try {
      session.assertVersion2();
      const { topic, slow } = entry.subscription;
      session.sendFrame(frames.subscribe(JSON.stringify(topic), number, slow), true);
    } catch (error) {
      this.#drop(number, error);
    }
  }

  /** Ends a subscription that the program no longer wants. */
  #end(number) {
    const session = this.#session;
    const entry = this.#entries.get(number);
    if (entry && !entry.isEnding) {
      entry.isEnding = true;
      entry.ended = new Promise((resolve) => {
        entry.resolveEnd = resolve;
      });
      const { topic } = entry.subscription;
      const isShared = this.#list().some(
        (one) => !one.isEnding && one.subscription.topic === topic,
      );
      if (session.isRegistered && !isShared) {
        session.sendFrame(frames.unsubscribe(JSON.stringify(topic), number), true);
      } else {
        this.#drop(number);
      }
    }
    return entry?.ended ?? Promise.resolve();
  }

  #list() {
    return [...this.#entries.values()];
  }

  /** Removes a subscription. `error`: why it has ended, if the program has not ended it. */
  #drop(number, error) {
    const entry = this.#entries.get(number);
    this.#entries.delete(number);
    for (const each of entry.subscription.messageStreams) {
      each.endStream();
    }
    entry.reject(error ?? coded('ERR_WSMB_CLOSED', 'unsubscribed'));
    entry.resolveEnd?.();
    entry.subscription.emit('end', error);
  }

  /** The broker has confirmed a subscription. */
  onSubscribed(number) {
    const entry = this.#entries.get(number);
    entry?.resolve(entry.subscription);
  }

  /** A subscription has ended. `code`: the broker has ended all of this topic. */
  onUnsubscribed(topic, number, code) {
    if (!code) {
      if (this.#entries.get(number)?.isEnding) {
        this.#drop(number);
      }
      return;
    }
    for (const [each, { subscription }] of [...this.#entries]) {
      if (subscription.topic === topic) {
        this.#drop(
          each,
          remote({ code, message: `subscription to ${JSON.stringify(topic)} ended` }),
        );
      }
    }
  }

  /** The broker has refused a frame. Returns false if it is of no subscription. */
  onRefused(number, error) {
    const isKnown = this.#entries.has(number);
    if (isKnown) {
      this.#drop(number, error);
    }
    return isKnown;
  }

  /** Calls a function with each subscription that matches a topic; with all for `'>'`. Returns false if there is none. */
  forEach(topic, callback) {
    let isFound = false;
    for (const { subscription, isEnding } of this.#list()) {
      const { topic: pattern } = subscription;
      if (topic === '>' || pattern === topic || matches(pattern, topic)) {
        isFound = true;
        if (!isEnding) {
          callback(subscription);
        }
      }
    }
    return isFound;
  }

  /** Ends all: the client has ended. */
  end(error) {
    for (const number of [...this.#entries.keys()]) {
      this.#drop(number, error);
    }
  }
}

module.exports = Subscriptions;
