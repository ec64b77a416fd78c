'use strict';

const { aborted } = require('./errors');
const signals = require('./signals');

/** Characters in a stream's queue at which reading stops: parsed messages take many times their size. */
const MAX_QUEUED = 1024 * 1024;

/**
 * The messages of a client, or of a subscription, as an async iterator with backpressure: when `highWaterMark` messages
 * are queued, the client stops reading from its socket. `streams`: the set of streams that get the messages.
 */
function messages(session, { highWaterMark = 64, signal }, streams = session.messageStreams) {
  const queue = [];
  /** Characters of the queued messages. */
  let queuedSize = 0;
  let isEnded = false;
  let wake = () => {};

  const updateFlowControl = () => {
    const isSaturated = !isEnded && (queue.length >= highWaterMark || queuedSize >= MAX_QUEUED);
    session.saturatedStreams[isSaturated ? 'set' : 'delete'](stream, queuedSize);
    session.updateFlowControl();
  };
  /** The interface for the session. */
  const stream = {
    pushMessage: (message, size, finish) => {
      queue.push([message, size, finish]);
      queuedSize += size;
      updateFlowControl();
      wake();
    },
    /** Accepts no further messages. Queued messages are still delivered. */
    endStream: () => {
      isEnded = true;
      streams.delete(stream);
      signals.remove(signal, stream.endStream);
      updateFlowControl();
      wake();
    },
  };

  async function* iterate() {
    try {
      while (!signal?.aborted) {
        if (queue.length > 0) {
          const [message, size, finish] = queue.shift();
          queuedSize -= size;
          updateFlowControl();
          try {
            yield message;
          } finally {
            finish?.();
          }
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
      stream.endStream();
    }
  }

  const iterator = iterate();
  streams.add(stream);
  signals.add(signal, stream.endStream);
  return {
    endStream: stream.endStream,
    next: () => iterator.next(),
    return: () => {
      stream.endStream();
      return iterator.return();
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

module.exports = messages;
