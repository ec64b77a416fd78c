'use strict';

// The mailboxes that a client has opened, across its connections.

const callAll = require('./callAll');
const { coded, remote } = require('./errors');
const frames = require('./frames');
const Mailbox = require('./mailbox');

/** Number of acknowledged messages that a mailbox remembers: the broker may deliver them again after a lost connection. */
const MAX_ACKED = 1024;

/**
 * An entry:
 *
 *     mailbox        the object of the program
 *     window         its option
 *     isPaused       its window is 0
 *     epoch          offsets of another epoch mean nothing
 *     isOpen         the broker has confirmed it on this connection
 *     busy           offsets of messages that the program has
 *     acked          offsets of messages that the program has acknowledged, the newest ones
 *     unsent         those of them that could not be told to the broker
 *     resolve, reject  of the promise of `openMailbox()`
 *     ended          the promise of `close()`, and its `resolveEnd`
 */
class Mailboxes {
  #session;
  /** By the number that the frames of a mailbox have as `ref`. */
  #entries = new Map();

  constructor(session) {
    this.#session = session;
  }

  /** Opens a mailbox, at once or when the client is registered. Resolves with a `Mailbox`. */
  open(name, window) {
    const session = this.#session;
    if (this.#find(name)) {
      throw coded('ERR_WSMB_NOT_OPEN', `mailbox ${JSON.stringify(name)} is open already`);
    }
    const number = session.requests.nextReference();
    const mailbox = new Mailbox(session, name, {
      end: () => this.#end(number),
      setWindow: (size) => {
        const entry = this.#entries.get(number);
        if (entry && !entry.ended) {
          entry.isPaused = size === 0;
          this.#sendIfRegistered(number);
        }
      },
    });
    return new Promise((resolve, reject) => {
      this.#entries.set(number, {
        mailbox,
        window,
        busy: new Set(),
        acked: new Set(),
        unsent: [],
        resolve,
        reject,
      });
      this.#sendIfRegistered(number);
    });
  }

  #find(name) {
    return [...this.#entries.values()].find(({ mailbox }) => mailbox.name === name);
  }

  #sendIfRegistered(number) {
    if (this.#session.holdsRegistration) {
      this.#send(number);
    }
  }

  #send(number) {
    const { mailbox, isPaused, window } = this.#entries.get(number);
    try {
      this.#session.assertVersion2();
      const more = frames.member('window', isPaused ? 0 : window);
      this.#session.sendFrame(frames.mailbox('subscribe', mailbox.name, number, more), true);
    } catch (error) {
      this.#drop(number, error);
    }
  }

  /** Opens the mailboxes again on a new connection. A renewed registration has them. */
  onRegistered() {
    const closed = [...this.#entries].filter(([, { isOpen }]) => !isOpen);
    callAll(
      closed.map(
        ([number]) =>
          () =>
            this.#send(number),
      ),
    );
  }

  /** The broker has confirmed a mailbox. */
  onOpened(_name, number, epoch, waiting) {
    const entry = this.#entries.get(number);
    if (!entry) {
      return;
    }
    if (entry.epoch !== epoch) {
      entry.epoch = epoch;
      entry.busy.clear();
      entry.acked.clear();
      entry.unsent = [];
    }
    entry.isOpen = true;
    entry.mailbox.waiting = waiting ?? 0;
    for (const [offset, more] of entry.unsent.splice(0)) {
      this.#settle(entry, offset, more);
    }
    entry.resolve(entry.mailbox);
  }

  /** Tells the broker what has become of a message. */
  #settle(entry, offset, more) {
    const session = this.#session;
    if (!(entry.isOpen && session.holdsRegistration)) {
      entry.unsent.push([offset, more]);
      return;
    }
    const members = frames.member('offset', offset) + more;
    try {
      const { name } = entry.mailbox;
      session.sendFrame(frames.mailbox('acknowledge', name, undefined, members), true);
    } catch {
      // The client is closing, or its send queue is full: the message is delivered again.
      entry.acked.delete(offset);
    }
  }

  /** A message from a mailbox. */
  onMessage({ message, from, mailbox: name, offset, attempt, key, topic }) {
    const entry = this.#find(name);
    if (!entry || entry.ended || entry.busy.has(offset)) {
      return;
    }
    if (entry.acked.has(offset)) {
      this.#settle(entry, offset, '');
      return;
    }
    const { epoch } = entry;
    entry.busy.add(offset);
    const settle = (more) => {
      // Once, and not after the broker has begun anew.
      if (entry.epoch === epoch && entry.busy.delete(offset)) {
        this.#settle(entry, offset, more);
        return true;
      }
      return false;
    };
    entry.mailbox.push({
      message,
      from: from ?? undefined,
      offset,
      attempt: attempt ?? 1,
      ...(key != null && { key }),
      ...(topic != null && { topic }),
      ack: () => {
        if (settle('')) {
          entry.acked.add(offset);
          if (entry.acked.size > MAX_ACKED) {
            entry.acked.delete(entry.acked.values().next().value);
          }
        }
      },
      retry: (delay = 0) => {
        settle(frames.member('retry', Math.max(0, Math.round(delay)) || 0));
      },
    });
  }

  /** Closes a mailbox that the program no longer wants. */
  #end(number) {
    const session = this.#session;
    const entry = this.#entries.get(number);
    if (entry && !entry.ended) {
      entry.ended = new Promise((resolve) => {
        entry.resolveEnd = resolve;
      });
      if (session.holdsRegistration) {
        session.sendFrame(frames.mailbox('unsubscribe', entry.mailbox.name, number), true);
      } else {
        this.#drop(number);
      }
    }
    return entry?.ended ?? Promise.resolve();
  }

  /** Removes a mailbox. `error`: why it has ended, if the program has not ended it. */
  #drop(number, error) {
    const entry = this.#entries.get(number);
    if (!entry) {
      return;
    }
    this.#entries.delete(number);
    entry.reject(error ?? coded('ERR_WSMB_CLOSED', 'closed'));
    entry.resolveEnd?.();
    entry.mailbox.onEnd(error);
  }

  /** The broker has closed a mailbox, or has confirmed that it is closed. */
  onClosed(name, number, code) {
    const entries = [...this.#entries];
    const found = entries.find(([each, { mailbox }]) =>
      number == null ? mailbox.name === name : each === number,
    );
    if (found) {
      const message = `mailbox ${JSON.stringify(name)} was closed`;
      this.#drop(found[0], code ? remote({ code, message }) : undefined);
    }
  }

  /** The broker has refused a frame. Returns false if it is of no mailbox. */
  onRefused(number, error) {
    const isKnown = this.#entries.has(number);
    this.#drop(number, error);
    return isKnown;
  }

  /** The registration has ended. Those that the program is closing have ended, too. */
  onLost() {
    for (const [number, entry] of [...this.#entries]) {
      entry.isOpen = false;
      if (entry.ended) {
        this.#drop(number);
      }
    }
  }

  /** Ends all: the client has ended. */
  end(error) {
    callAll([...this.#entries.keys()].map((number) => () => this.#drop(number, error)));
  }
}

module.exports = Mailboxes;
