'use strict';

// A question to one or to many, whose outcome somebody awaits.

const { aborted, coded, failure } = require('./errors');
const frames = require('./frames');

/** The longest that a timer may run, ms; what is longer has no end. */
const LONGEST = 2 ** 31 - 1;

/**
 * Sends it, and resolves with its outcome. `count`: how many answers to collect; undefined: the fastest.
 * `dest`, `text`: JSON; `more`: further members of the frame; `ids`: all who may answer.
 */
function ask(session, { text, dest, ids, more, count, limit, signal }) {
  return new Promise((resolve, reject) => {
    /** Who has not answered, by name; one may also answer without a name, or under another. */
    let open = new Set(ids);
    let left = open.size;
    const answers = new Map();
    const failed = new Map();
    /** Who had answered when it was sent again, and will once more. */
    let before = new Set();
    const isOne = count === undefined;
    const key = session.ack();
    const frame = frames.send(text, dest, `"${key}"`, more);

    const heard = (id) => {
      open.delete(id);
      left -= 1;
    };
    const settle = (error) => {
      session.withdraw(entry);
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
      session.requests.delete(key);
      if (error) {
        reject(error);
      } else {
        resolve({ answers, failed });
      }
      session.pace();
    };
    /** Given up: whoever works on it does so in vain. */
    const cancel = () => {
      // An answer that is on its way is no fault of the server's.
      session.forgets = true;
      if (session.speaks2 && !entry.queued) {
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
      frame: session.resends ? frame : undefined,
      needs2: !isOne,
      again: () => {
        before = new Set(answers.keys());
        open = new Set(ids.filter((id) => !before.has(id)));
        left = open.size;
        failed.clear();
        session.forgets = true;
      },
      answered: (from, message) => {
        if (before.has(from)) {
          return;
        }
        if (isOne) {
          resolve({ from, message });
        }
        session.forgets ||= left > 1;
        answers.set(from, message);
        heard(from);
        if (isOne || answers.size >= count || left === 0) {
          settle();
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
        settle((isOne || error.isFinal) && error);
      },
    };
    session.requests.set(key, entry);
    let timer;
    if (limit <= LONGEST) {
      timer = setTimeout(() => {
        cancel();
        for (const id of open) {
          failed.set(id, failure('TIMEOUT', id));
        }
        settle(isOne && coded('TIMEOUT', `no answer within ${limit} ms`));
      }, limit);
    }
    signal?.addEventListener('abort', abort);
    if (left > 0) {
      session.ask(frame, entry);
    } else {
      settle();
    }
  });
}

module.exports = { ask, LONGEST };
