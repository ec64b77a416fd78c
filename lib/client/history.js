'use strict';

const { coded } = require('./errors');
const frames = require('./frames');

/** Reads a page of kept messages. */
async function readPage(session, topic, after, before, limit) {
  session.assertOpen(true);
  session.assertVersion2();
  const key = session.requests.nextReference();
  const more =
    frames.member('after', after) + frames.member('before', before) + frames.member('limit', limit);
  return new Promise((resolve, reject) => {
    const entry = {
      isSingle: false,
      fail: reject,
      onHistory(messages, epoch, next, hasMore) {
        session.requests.delete(key);
        session.updateFlowControl();
        resolve({
          messages: messages.map(({ message, from, topic: to, offset }) => ({
            message,
            from,
            topic: to,
            offset,
          })),
          more: hasMore === true,
          next,
          epoch,
        });
      },
    };
    session.requests.set(key, entry);
    const frame = frames.subscription('history', JSON.stringify(topic), key, undefined, more);
    session.sendRequest(frame, entry);
  });
}

/**
 * The kept messages of a topic or a pattern: a promise of a page of them, and an async iterable of all. With `after` they
 * are read forwards, otherwise backwards.
 */
function history(session, topic, { after, before, limit }) {
  const first = readPage(session, topic, after, before, limit);
  async function* iterate() {
    let page = await first;
    const { epoch } = page;
    for (;;) {
      yield* after === undefined ? [...page.messages].reverse() : page.messages;
      if (!page.more) {
        return;
      }
      const { next } = page;
      page = await (after === undefined
        ? readPage(session, topic, undefined, next, limit)
        : readPage(session, topic, next, undefined, limit));
      if (page.epoch !== epoch) {
        throw coded('ERR_WSMB_CONNECTION_LOST', 'the broker has another history');
      }
    }
  }
  return Object.assign(first, { [Symbol.asyncIterator]: iterate });
}

module.exports = history;
