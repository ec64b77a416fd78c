'use strict';

const Emitter = require('./emitter');
const stream = require('./messages');

/**
 * A watch of the members of a topic, or of ids that may be online. An emitter of `'change'` and `'end'`, and an
 * async iterable of the changes.
 */
class Watch extends Emitter {
  #session;
  #end;

  /** The topic; undefined for ids. */
  topic;
  /** The number of members of the topic. */
  count;
  /** The members: ids with what they tell of themselves. Undefined while there are too many. */
  members;
  /** The watched ids that are online. */
  online;
  /** Streams of its changes: `pushMessage(change, size)`, `endStream()`. */
  messageStreams = new Set();

  /** `end()` ends it, and returns a promise. */
  constructor(session, topic, end) {
    super();
    this.#session = session;
    this.#end = end;
    this.topic = topic;
  }

  [Symbol.asyncIterator]() {
    return stream(this.#session, {}, this.messageStreams);
  }

  /** Ends it. Resolves when the broker has confirmed that. */
  close() {
    return this.#end();
  }

  /** Ends it at the end of an `await using` block. */
  [Symbol.asyncDispose ?? 'asyncDispose']() {
    return this.#end();
  }
}

module.exports = Watch;
