'use strict';

// Repeats a request or delivery while its receivers are not registered yet, or after its receiver has failed.

const { startWait } = require('./wait');

/** The delays between attempts in milliseconds: the first, and the longest. */
const MIN_DELAY = 50;
const MAX_DELAY = 1000;

/** The codes of an id that is not registered, and of a topic without a subscriber. */
const UNKNOWN = ['UNKNOWN_ID', 'NO_SUBSCRIBER'];

/** The codes after which another receiver may do the work. */
const FAILED = ['GONE', 'UNAVAILABLE'];
/** Those of a topic, too: the member of a group that was asked may have left since. */
const FAILED_OF_TOPIC = [...FAILED, 'UNKNOWN_ID'];

/**
 * Calls `start(ids, left, attempt)`, with the milliseconds left of `limit`, again for `waitFor` milliseconds while ids are
 * unknown, and up to `retry` times after a failure. A receipt is repeated for the unknown ids alone, and the result has
 * all receipts. `ids` are undefined for a topic.
 */
async function repeat(start, ids, { waitFor = 0, retry = 0, limit, signal }) {
  const begin = performance.now();
  const until = begin + Math.min(waitFor, limit);
  const delivered = [];
  const failed = new Map();
  /** Number of the attempt, from 1. */
  let attempt = 1;
  for (let delay = MIN_DELAY, rest = ids; ; delay = Math.min(2 * delay, MAX_DELAY)) {
    // The last attempt comes at the end.
    const pause = Math.min(delay, until - performance.now());
    try {
      const outcome = await start(rest, Math.max(begin + limit - performance.now(), 1), attempt);
      if (!outcome.delivered) {
        return outcome;
      }
      for (const id of outcome.delivered) {
        delivered.push(id);
        failed.delete(id);
      }
      rest = [];
      for (const [id, error] of outcome.failed) {
        failed.set(id, error);
        if (UNKNOWN.includes(error.code)) {
          rest.push(id);
        }
      }
      if (rest.length === 0 || pause < 0) {
        return { delivered, failed };
      }
    } catch (error) {
      if (attempt <= retry && (ids ? FAILED : FAILED_OF_TOPIC).includes(error.code)) {
        attempt += 1;
        continue;
      }
      if (!UNKNOWN.includes(error.code) || pause < 0) {
        throw error;
      }
    }
    await new Promise((resolve, reject) => startWait(pause, signal, resolve, reject));
  }
}

module.exports = repeat;
