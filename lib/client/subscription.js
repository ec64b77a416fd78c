'use strict';

const Emitter = require('./emitter');
const handle = require('./handle');
const { checkOptions } = require('./arguments');
const { coded } = require('./errors');
const stream = require('./messages');

/**
 * A subscription to a topic or a pattern, perhaps as a member of a group: an async iterable of its messages, and an
 * emitter of `'message'`, `'gap'`, `'recovered'` and `'end'`.
 */
class Subscription extends Emitter {
  #session;
  #control;

  /** The topic or pattern. */
  topic;
  /** The group of workers; undefined for none. */
  group;
  /** Streams of its messages: `pushMessage(message, size)`, `endStream()`. */
  messageStreams = new Set();
  /** The handler that was set by `handle()`. */
  handler;
  /** True once the subscription has ended. */
  isEnded = false;

  /** `control`: the functions `end()`, `setWindow(window)` and `position()`. */
  constructor(session, topic, group, control) {
    super();
    this.#session = session;
    this.#control = control;
    this.topic = topic;
    this.group = group;
  }

  /** An async iterator of messages: `{ message, from, topic, response, answer }`. */
  messages(options) {
    const checked = checkOptions(options, 'highWaterMark', 'signal');
    const messages = stream(this.#session, checked, this.messageStreams);
    if (this.isEnded) {
      messages.endStream();
    }
    return messages;
  }

  [Symbol.asyncIterator]() {
    return this.messages();
  }

  /** Answers messages with the results of a function. Returns a function that stops it. */
  handle(handler, options) {
    if (this.isEnded) {
      throw coded('ERR_WSMB_NOT_OPEN', 'subscription has ended');
    }
    return handle(this.#session, handler, options, this);
  }

  /** `{ offset, epoch }` of the newest message that has arrived; undefined if its messages are not kept. */
  get position() {
    return this.#control.position();
  }

  /** Takes no further messages until `resume()`: the other members of the group get them. */
  pause() {
    this.#control.setWindow(0);
  }

  /** Ends a `pause()`. */
  resume() {
    this.#control.setWindow();
  }

  /** Ends the subscription. Resolves when the broker has confirmed it. */
  unsubscribe() {
    return this.#control.end();
  }

  /** Ends the subscription at the end of an `await using` block. */
  [Symbol.asyncDispose ?? 'asyncDispose']() {
    return this.#control.end();
  }
}

module.exports = Subscription;
