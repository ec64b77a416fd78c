'use strict';

const Emitter = require('./emitter');
const handle = require('./handle');
const { checkOptions } = require('./arguments');
const stream = require('./messages');

/**
 * A subscription to a topic or a pattern: an async iterable of its messages, and an emitter of `'message'`, `'gap'` and
 * `'end'`.
 */
class Subscription extends Emitter {
  #session;
  #unsubscribe;

  /** The topic or pattern. */
  topic;
  /** The treatment while it is slow: `'drop'`, `'latest'` or `'wait'`. */
  slow;
  /** Streams of its messages: `pushMessage(message, size)`, `endStream()`. */
  messageStreams = new Set();
  /** The handler that was set by `handle()`. */
  handler;

  constructor(session, topic, slow, unsubscribe) {
    super();
    this.#session = session;
    this.#unsubscribe = unsubscribe;
    this.topic = topic;
    this.slow = slow;
  }

  /** An async iterator of messages: `{ message, from, topic, response, answer }`. */
  messages(options) {
    return stream(
      this.#session,
      checkOptions(options, 'highWaterMark', 'signal'),
      this.messageStreams,
    );
  }

  [Symbol.asyncIterator]() {
    return this.messages();
  }

  /** Answers messages with the results of a function. Returns a function that stops it. */
  handle(handler, options) {
    return handle(this.#session, handler, options, this);
  }

  /** Ends the subscription. Resolves when the broker has confirmed it. */
  unsubscribe() {
    return this.#unsubscribe();
  }

  /** Ends the subscription at the end of an `await using` block. */
  [Symbol.asyncDispose ?? 'asyncDispose']() {
    return this.#unsubscribe();
  }
}

module.exports = Subscription;
