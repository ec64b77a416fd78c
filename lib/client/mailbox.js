'use strict';

const { checkOptions, wrong } = require('./arguments');
const Emitter = require('./emitter');
const { aborted, coded } = require('./errors');
const signals = require('./signals');
const timers = require('./timers');

/** The delay before a message is delivered again whose handler has failed, in milliseconds: the first, and the longest. */
const MIN_DELAY = 1000;
const MAX_DELAY = 60_000;

/**
 * The messages of a mailbox: an async iterable, and an emitter of `'message'` and `'end'`. Each message stays in the mailbox
 * until it is acknowledged: by `ack()`, when a loop asks for the next message, or when the handler has ended.
 */
class Mailbox extends Emitter {
  #session;
  #control;
  /** Messages that no loop or handler has taken. */
  #queue = [];
  /** Functions that look into the queue again: of loops that wait, and of the handler. */
  #takers = new Set();
  #handler;

  /** The name of the mailbox. */
  name;
  /** The number of messages in the mailbox when it was opened last. */
  waiting = 0;
  /** True once it is closed. */
  isEnded = false;

  /** `control`: the functions `end()` and `setWindow(window)`. */
  constructor(session, name, control) {
    super();
    this.#session = session;
    this.#control = control;
    this.name = name;
  }

  /** Hands a message to the listeners; without any to a loop or to the handler. */
  push(mail) {
    if (this.listenerCount('message') > 0 && this.#queue.length === 0) {
      this.emit('message', mail.message, mail);
    } else {
      this.#queue.push(mail);
      this.#wake();
    }
  }

  #wake() {
    for (const take of [...this.#takers]) {
      take();
    }
  }

  on(name, listener) {
    super.on(name, listener);
    if (name === 'message') {
      // The program may add further listeners first.
      timers.setTimeout(() => this.#release(), 0);
    }
    return this;
  }

  /** Hands queued messages to the listeners. After an error of a listener, the rest follows. */
  #release() {
    const queue = this.#queue;
    try {
      while (queue.length > 0 && this.listenerCount('message') > 0) {
        const [mail] = queue;
        // Stays in the queue meanwhile: messages that come are behind it.
        try {
          this.emit('message', mail.message, mail);
        } finally {
          queue.shift();
        }
      }
    } finally {
      if (queue.length > 0 && this.listenerCount('message') > 0) {
        timers.setTimeout(() => this.#release(), 0);
      }
    }
  }

  /** An async iterator of messages. Each is acknowledged when the loop asks for the next one. */
  messages(options) {
    const { signal } = checkOptions(options, 'signal');
    let isOver = false;
    let wake = () => {};
    const look = () => wake();
    const end = () => {
      isOver = true;
      signals.remove(signal, end);
      wake();
    };
    const queue = this.#queue;
    const takers = this.#takers;
    const isEnded = () => isOver || this.isEnded;
    takers.add(look);
    signals.add(signal, end);
    async function* iterate() {
      try {
        while (!isEnded()) {
          const mail = queue.shift();
          if (mail) {
            let isDone = false;
            try {
              yield mail;
              isDone = true;
            } finally {
              // After `break` or an error another loop gets it.
              mail[isDone ? 'ack' : 'retry']();
            }
          } else {
            await new Promise((resolve) => {
              wake = resolve;
            });
          }
        }
        if (signal?.aborted) {
          throw aborted(signal);
        }
      } finally {
        takers.delete(look);
        end();
      }
    }
    const iterator = iterate();
    return {
      next: () => iterator.next(),
      return: () => {
        end();
        return iterator.return();
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  [Symbol.asyncIterator]() {
    return this.messages();
  }

  /**
   * Calls `handler(message, mail)` for each message. It is acknowledged when the handler has ended, and delivered again
   * later if the handler fails. Returns a function that stops it.
   */
  handle(handler, options) {
    if (typeof handler !== 'function') {
      throw wrong('OPTION', 'no handler');
    }
    const { concurrency = Number.POSITIVE_INFINITY } = checkOptions(options, 'concurrency');
    if (this.isEnded) {
      throw coded('ERR_WSMB_NOT_OPEN', 'mailbox is closed');
    }
    if (this.#handler) {
      throw coded('ERR_WSMB_HANDLER', 'has a handler');
    }
    let running = 0;
    const run = async (mail) => {
      running += 1;
      try {
        await handler(mail.message, mail);
        mail.ack();
      } catch (error) {
        mail.retry(Math.min(MIN_DELAY * 2 ** (mail.attempt - 1), MAX_DELAY));
        this.#session.reportHandlerError(error);
      } finally {
        running -= 1;
        look();
      }
    };
    const look = () => {
      while (running < concurrency && this.#handler === run && this.#queue.length > 0) {
        run(this.#queue.shift());
      }
    };
    this.#handler = run;
    this.#takers.add(look);
    look();
    return () => {
      this.#takers.delete(look);
      if (this.#handler === run) {
        this.#handler = undefined;
      }
    };
  }

  /** Takes no further messages until `resume()`: they stay in the mailbox, or go to others. */
  pause() {
    this.#control.setWindow(0);
  }

  /** Ends a `pause()`. */
  resume() {
    this.#control.setWindow();
  }

  /** Takes no messages any more. Those that are not acknowledged stay. Resolves when the broker has confirmed it. */
  close() {
    return this.#control.end();
  }

  /** Closes it at the end of an `await using` block. */
  [Symbol.asyncDispose ?? 'asyncDispose']() {
    return this.#control.end();
  }

  /** Called when it has ended. `error`: why, if the program has not ended it. */
  onEnd(error) {
    this.isEnded = true;
    this.#queue.length = 0;
    this.#wake();
    this.emit('end', error);
  }
}

module.exports = Mailbox;
