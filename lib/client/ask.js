'use strict';

// A message of which somebody awaits what becomes of it: answers, or a receipt.

const { aborted, coded, failure } = require('./errors');
const frames = require('./frames');

/** The longest that a timer may run, ms; what is longer has no end. */
const LONGEST = 2 ** 31 - 1;

/**
 * Sends it, and resolves with its outcome. `text`, `dest`: JSON; `ids`: all receivers; `limit`: ms.
 * `count`: how many answers to collect; undefined: the fastest alone; 0: none, but a receipt. `timeout`: what
 * the server is told of the limit.
 */
function ask(session, { text, dest, ids, count, timeout, limit, signal }) {
  return new Promise((resolve, reject) => {
    /** Who has not answered, by name; one may also answer without a name, or under another. */
    let open = new Set(ids);
    let left = open.size;
    let wanted = count;
    const answers = new Map();
    const failed = new Map();
    /** Who had answered when it was sent again, and will once more. */
    let before = new Set();
    const isOne = count === undefined;
    const isReceipt = count === 0;

    const heard = (id) => {
      open.delete(id);
      left -= 1;
    };
    const settle = (error, outcome = { answers, failed }) => {
      session.withdraw(entry);
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
      session.requests.delete(key);
      if (error) {
        reject(error);
      } else {
        resolve(outcome);
      }
      session.pace();
    };
    /** Given up: whoever works on it does so in vain. */
    const cancel = () => {
      // An answer that is on its way is no fault of the server's.
      session.forgets = true;
      if (session.speaks2 && !entry.queued && !isReceipt) {
        try {
          session.push(frames.cancel(`"${key}"`));
        } catch {
          // Too much waits already: the server finds out by itself.
        }
      }
    };
    const abort = () => {
      cancel();
      settle(aborted(signal));
    };
    const entry = {
      needs2: !isOne,
      receipt: isReceipt
        ? (delivered, codes) => {
            for (const [id, code] of Object.entries(codes)) {
              failed.set(id, failure(code, id));
            }
            settle(undefined, { delivered, failed });
          }
        : undefined,
      again: (next) => {
        key = next;
        before = new Set(answers.keys());
        open = new Set(ids.filter((id) => !before.has(id)));
        left = open.size;
        failed.clear();
        session.forgets = true;
      },
      answered: (from, message) => {
        if (before.has(from) || isReceipt) {
          return;
        }
        session.forgets ||= left > 1;
        answers.set(from, message);
        heard(from);
        if (isOne) {
          settle(undefined, { from, message });
        } else {
          wanted -= 1;
          if (wanted <= 0 || left === 0) {
            settle();
          }
        }
      },
      failed: (id, error) => {
        if (before.has(id)) {
          return;
        }
        failed.set(id, error);
        heard(id);
        if (left === 0) {
          settle(isOne && error);
        }
      },
      end: (error) => {
        for (const id of open) {
          failed.set(id, error);
        }
        settle((isOne || isReceipt || error.isFinal) && error);
      },
    };
    let key = session.requests.add(entry, isReceipt ? undefined : session.ack());
    const ack = isReceipt ? undefined : `"${key}"`;
    let more = '';
    if (isReceipt) {
      more = frames.member('ref', key);
    } else if (session.speaks2) {
      const all = count >= left ? '"all"' : count;
      more = frames.member('answers', all) + frames.member('timeout', timeout);
    }
    const frame = frames.send(text, dest, ack, more);
    if (session.resends && !isReceipt) {
      entry.frame = frame;
    }
    let timer;
    if (limit <= LONGEST) {
      timer = setTimeout(() => {
        cancel();
        const error = coded('TIMEOUT', `nothing within ${limit} ms`);
        if (!session.isRegistered) {
          error.cause = session.cause;
        }
        entry.end(error);
      }, limit);
    }
    signal?.addEventListener('abort', abort);
    if (left > 0 || isReceipt) {
      session.ask(frame, entry);
    } else {
      settle(isOne && failure('UNKNOWN_ID', ''));
    }
  });
}

module.exports = { ask, LONGEST };
