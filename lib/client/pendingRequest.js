'use strict';

// A request of this client that waits for answers or for a receipt.

const { exceeded, failure } = require('./errors');
const frames = require('./frames');
const { startWait } = require('./wait');

class PendingRequest {
  #session;
  #ids;
  /** Number of answers that are still to be collected. */
  #wanted;
  #signal;
  /** True if a receipt is the outcome. */
  #isReceipt;
  /** True for a request to a topic: the receipt brings the number of receivers, perhaps after the first answers. */
  #isTopic;
  #isCounted = true;
  #key;
  /** Ends the wait for the timeout and the signal. */
  #stopWait;
  /** Receivers that have neither answered nor failed, by id. */
  #open;
  /** The number of them. Not the size of `#open`: a receiver may answer without its id, or with another one. */
  #openCount;
  #answers = new Map();
  #failed = new Map();
  /** The failure that came last. */
  #lastError;
  /** Receivers that had answered before the request was sent again. They answer again, and are ignored then. */
  #answeredBefore;
  #resolve;
  #reject;
  #outcome = new Promise((resolve, reject) => {
    this.#resolve = resolve;
    this.#reject = reject;
  });

  /** True if the first answer is the outcome. Otherwise the request needs a broker of version 2. */
  isSingle;
  /** The frame, if it may be sent again after a lost connection. */
  frameText;
  /** True if the frame is sent again as it is. */
  keepsKey = false;
  /** The idempotency key of a message for mailboxes. */
  mailKey;
  /** The item of the send queue, until the frame is sent. */
  queuedItem;
  /** The part of the session's `answersHeap` that is for this request. */
  answersHeap = 0;

  /**
   * `ids`: all receivers; undefined for those of a topic. `count`: how many answers to collect; undefined for the first answer alone, 0 for a
   * receipt instead of answers.
   */
  constructor(session, ids, count, signal) {
    this.#session = session;
    this.#ids = ids;
    this.#wanted = count;
    this.#signal = signal;
    this.#isReceipt = count === 0;
    this.isSingle = count === undefined;
    this.#isTopic = !ids;
    this.#waitFor(ids);
  }

  /**
   * Sends the request, and returns a promise of its outcome. `text`, `dest`: JSON; `limit`: the timeout in
   * milliseconds; `timeout`: the timeout for the broker, if the program has set one; `attempt`: its number, from 1.
   */
  start(text, dest, limit, timeout, attempt) {
    const session = this.#session;
    let ack;
    let more;
    if (this.#isReceipt) {
      this.#key = session.requests.nextReference();
      const key = this.mailKey && JSON.stringify(this.mailKey);
      more = frames.member('ref', this.#key) + frames.member('key', key);
    } else {
      this.#key = session.ack();
      ack = `"${this.#key}"`;
      if (this.#isTopic) {
        this.#isCounted = false;
        session.ignoresStrayAnswers = true;
        more = frames.member('ref', ack);
      }
      if (session.usesVersion2) {
        more =
          (more ?? '') +
          frames.member(
            'answers',
            this.#wanted >= this.#openCount && this.#isCounted ? '"all"' : this.#wanted,
          ) +
          frames.member('timeout', timeout) +
          frames.member('attempt', this.#isTopic && attempt > 1 ? attempt : undefined);
      }
    }
    session.requests.set(this.#key, this);
    const frame = frames.send(text, dest, ack, more);
    if (session.resendsRequests && ack && !this.#isTopic) {
      this.frameText = frame;
    } else if (session.reconnects && this.mailKey) {
      this.frameText = frame;
      this.keepsKey = true;
    }
    this.#stopWait = startWait(
      limit,
      this.#signal,
      () => this.#expire(limit),
      (error) => this.#giveUp(error, true),
    );
    if (this.#openCount > 0 || this.#isReceipt || this.#isTopic) {
      session.sendRequest(frame, this);
    } else {
      this.#settle(this.isSingle && failure('UNKNOWN_ID', ''));
    }
    return this.#outcome;
  }

  onReceipt(delivered, codes, queued, dropped, elsewhere, offset, stored, mailboxes, duplicates) {
    if (this.#isTopic && !this.#isReceipt) {
      this.#isCounted = true;
      this.#openCount += queued ?? 0;
      this.#checkEnd();
    } else if (this.#isReceipt) {
      for (const [id, code] of Object.entries(codes)) {
        this.#failed.set(id, failure(code, id));
      }
      const failed = this.#failed;
      const places = mailboxes && new Map(Object.entries(mailboxes));
      if (queued != null) {
        this.#settle(undefined, {
          queued,
          dropped,
          ...(elsewhere && { elsewhere }),
          ...(offset != null && { offset, stored: stored ?? undefined }),
          ...(places && { mailboxes: places, failed }),
        });
      } else if (places) {
        this.#settle(undefined, { stored: places, failed, duplicates: duplicates ?? [] });
      } else {
        this.#settle(undefined, { delivered, failed });
      }
    }
  }

  onAnswer(from, message) {
    if (this.#answeredBefore?.has(from) || this.#isReceipt) {
      return;
    }
    this.#session.ignoresStrayAnswers ||= this.#openCount > 1;
    this.#answers.set(from, message);
    this.#wanted -= 1;
    this.#close(from);
    if (this.isSingle) {
      this.#settle(undefined, { from, message });
    } else if (this.#wanted <= 0) {
      this.#settle();
    } else {
      this.#checkEnd();
    }
  }

  /** Ends the request if no receiver is left. `error`: of the last one. */
  #checkEnd(error) {
    this.#lastError = error ?? this.#lastError;
    if (this.#isCounted && this.#openCount <= 0) {
      this.#settle(this.isSingle && this.#lastError);
    }
  }

  onFailure(id, error) {
    if (!this.#answeredBefore?.has(id)) {
      // A topic fails as a whole: it has no subscriber that takes the request.
      const isWhole = Object(id) === id;
      this.#failed.set(isWhole ? id.topic : id, error);
      this.#close(id);
      this.#isCounted ||= isWhole;
      this.#checkEnd(error);
    }
  }

  #close(id) {
    this.#open.delete(id);
    this.#openCount -= 1;
  }

  /** Prepares to be sent again, with this ack. */
  onResend(key) {
    this.#key = key;
    this.#failed.clear();
    this.#answeredBefore = new Set(this.#answers.keys());
    this.#waitFor(this.#ids.filter((id) => !this.#answeredBefore.has(id)));
    this.#session.ignoresStrayAnswers = true;
  }

  #waitFor(ids) {
    this.#open = new Set(ids);
    this.#openCount = this.#open.size;
  }

  /**
   * Ends the request: no receiver will answer any more. `rejects`: even a request for several answers rejects, instead
   * of resolving with the answers and failures so far.
   */
  fail(error, rejects) {
    for (const id of this.#open) {
      this.#failed.set(id, error);
    }
    this.#settle((this.isSingle || this.#isReceipt || rejects) && error);
  }

  /** Ends the request because its time is over, unless its answer is among the events that have arrived. */
  #expire(limit) {
    const session = this.#session;
    session.whenQuiet(() => {
      if (session.requests.get(this.#key) === this) {
        const error = exceeded('TIMEOUT', 'timeout', limit);
        if (!session.isRegistered) {
          error.cause = session.lastError;
        }
        this.#giveUp(error);
      }
    });
  }

  /** Ends the request early, and informs the broker, so that receivers can stop. For `rejects` see `fail`. */
  #giveUp(error, rejects) {
    const session = this.#session;
    session.ignoresStrayAnswers = true;
    if (session.usesVersion2 && !this.queuedItem && !this.#isReceipt) {
      try {
        session.sendFrame(frames.cancel(`"${this.#key}"`));
      } catch {
        // The send queue is full: the broker cancels the request when its timeout expires.
      }
    }
    this.fail(error, rejects);
  }

  /** Rejects with `error`, or resolves with `outcome`. */
  #settle(error, outcome = { answers: this.#answers, failed: this.#failed }) {
    const session = this.#session;
    session.sendQueue.removeFrame(this);
    this.#stopWait();
    session.answersHeap -= this.answersHeap;
    session.requests.delete(this.#key);
    if (error) {
      this.#reject(error);
    } else {
      this.#resolve(outcome);
    }
    session.updateFlowControl();
  }
}

module.exports = PendingRequest;
