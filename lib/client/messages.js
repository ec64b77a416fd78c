'use strict';

const { aborted } = require('./errors');

/** Characters that wait in a stream before the socket is read no further: parsed, they take many times that. */
const MOST = 1024 * 1024;

/**
 * The messages of a client from now on, to be taken one after the other by `for await`. `highWaterMark`:
 * messages that wait here before the socket is read no further.
 */
function messages(session, { highWaterMark = 64, signal }) {
  const queue = [];
  /** Characters of what is in it. */
  let queued = 0;
  let isEnded = false;
  let wake = () => {};

  const pace = () => {
    const isFull = !isEnded && (queue.length >= Math.max(highWaterMark, 1) || queued >= MOST);
    session.full[isFull ? 'add' : 'delete'](stream);
    session.pace();
  };
  /** What the session sees of it. */
  const stream = {
    push: (message, size) => {
      queue.push([message, size]);
      queued += size;
      pace();
      wake();
    },
    /** No more will come; those that wait may still be taken. */
    end: () => {
      isEnded = true;
      session.streams.delete(stream);
      signal?.removeEventListener('abort', stream.end);
      pace();
      wake();
    },
  };

  async function* take() {
    try {
      while (!signal?.aborted) {
        if (queue.length > 0) {
          const [message, size] = queue.shift();
          queued -= size;
          pace();
          yield message;
        } else if (isEnded) {
          return;
        } else {
          await new Promise((resolve) => {
            wake = resolve;
          });
        }
      }
      throw aborted(signal);
    } finally {
      stream.end();
    }
  }

  const iterator = take();
  session.streams.add(stream);
  signal?.addEventListener('abort', stream.end);
  return {
    next: () => iterator.next(),
    return: () => {
      stream.end();
      return iterator.return();
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

module.exports = messages;
