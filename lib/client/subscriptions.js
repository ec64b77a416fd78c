'use strict';

// The subscriptions of a client across its connections.

const callAll = require('./callAll');
const { coded, remote } = require('./errors');
const frames = require('./frames');
const Subscription = require('./subscription');
const timers = require('./timers');
const { matches } = require('./topics');

/** The position of an entry; undefined if it is not known. */
const position = ({ offset, epoch }) =>
  epoch !== undefined && offset !== undefined ? { offset, epoch } : undefined;

/** The members of a `subscribe` with which kept messages begin. */
const start = (since, last = 0) =>
  since ? frames.member('since', JSON.stringify(since)) : frames.member('last', last);

/** Calls a function, or holds the call until the program can have added listeners. */
const call = ({ held }, callback) => (held ? held.push(callback) : callback());

/**
 * Moves the position of an entry to the message with this offset. Returns false if the message is not for it: it has had
 * it, or will get it later.
 */
function advance(entry, offset) {
  if (offset == null) {
    return true;
  }
  if (entry.epoch === undefined || entry.isWaiting) {
    return !entry.isWaiting;
  }
  const isNew = !(offset <= entry.offset);
  if (isNew) {
    entry.offset = offset;
  }
  return isNew;
}

/**
 * An entry:
 *
 *     subscription   the object of the program
 *     slow, group, window, info, token  its options; `group`, `info` and `token` as JSON text
 *     isPaused       its window is 0
 *     recovers       after a lost connection it begins where it was
 *     last           number of kept messages with which it begins, if it has no position
 *     isWaiting      it recovers, and the broker has not confirmed it yet: messages are for other subscriptions
 *     offset, epoch  its position, if its messages are kept: messages with a lower offset have arrived
 *     held           calls for messages that have come before the program could add listeners; then undefined
 *     finished       number of messages of a group that the program has finished and the broker does not know of
 *     resolve, reject  of the promise of `subscribe()`
 *     isGiven        the server's program has subscribed the client, until its registration ends
 *     isEnding       the program has ended it
 *     ended          the promise of `unsubscribe()`, and its `resolveEnd`
 */
class Subscriptions {
  #session;
  /** By the number that the frames of a subscription have as `ref`. */
  #entries = new Map();

  constructor(session) {
    this.#session = session;
  }

  /** Subscribes, at once or when the client is registered. Resolves with a `Subscription`. */
  add(topic, { group, token, start, ...options }) {
    const session = this.#session;
    const number = session.requests.nextReference();
    return new Promise((resolve, reject) => {
      const members = { ...options, ...start, token: token && JSON.stringify(token) };
      this.#create(number, topic, group, { ...members, resolve, reject, held: [] });
      this.#sendIfRegistered(number);
    });
  }

  /** Adds an entry with these members. */
  #create(number, topic, group, members) {
    const control = {
      end: () => this.#end(number),
      position: () => position(entry),
      setWindow: (size) => {
        const entry = this.#entries.get(number);
        if (group !== undefined && entry && !entry.isEnding) {
          entry.isPaused = size === 0;
          this.#sendIfRegistered(number);
        }
      },
    };
    const subscription = new Subscription(this.#session, topic, group, control);
    const entry = { subscription, finished: 0, group: group && JSON.stringify(group), ...members };
    this.#entries.set(number, entry);
    return subscription;
  }

  /** Subscribes again on a new connection. */
  onRegistered() {
    const again = [...this.#entries].filter(([, entry]) => !entry.isGiven && !entry.isEnding);
    for (const entry of this.#entries.values()) {
      entry.finished = 0;
    }
    callAll(
      again.map(
        ([number]) =>
          () =>
            this.#send(number),
      ),
    );
  }

  #sendIfRegistered(number) {
    if (this.#session.holdsRegistration) {
      this.#send(number);
    }
  }

  #send(number) {
    const session = this.#session;
    const entry = this.#entries.get(number);
    if (!entry) {
      return;
    }
    const { subscription, slow, group, window, info, token, isPaused, recovers, last } = entry;
    entry.isWaiting = recovers;
    try {
      session.assertVersion2();
      const more = group
        ? frames.member('window', isPaused ? 0 : window)
        : frames.member('slow', `"${slow}"`) +
          frames.member('info', info) +
          (recovers ? start(position(entry), last) : '');
      const topic = JSON.stringify(subscription.topic);
      const all = more + frames.member('token', token);
      session.sendFrame(frames.subscription('subscribe', topic, number, group, all), true);
    } catch (error) {
      this.#drop(number, error);
    }
  }

  /** Counts a message of a group that the program has finished. The broker is informed at the end of the tick. */
  #finish(number) {
    const entry = this.#entries.get(number);
    if (!entry) {
      return;
    }
    entry.finished += 1;
    if (entry.finished === 1) {
      queueMicrotask(() => {
        if (entry.finished > 0 && this.#session.holdsRegistration) {
          const topic = JSON.stringify(entry.subscription.topic);
          const count = frames.member('count', entry.finished);
          entry.finished = 0;
          try {
            const frame = frames.subscription('acknowledge', topic, undefined, entry.group, count);
            this.#session.sendFrame(frame, true);
          } catch {
            // The client is closing, or its send queue is full.
          }
        }
      });
    }
  }

  /** Ends a subscription that the program no longer wants. */
  #end(number) {
    const session = this.#session;
    const entry = this.#entries.get(number);
    if (entry && !entry.isEnding) {
      entry.isEnding = true;
      entry.ended = new Promise((resolve) => {
        entry.resolveEnd = resolve;
      });
      const { topic } = entry.subscription;
      const isOther = (one) =>
        !one.isEnding && one.subscription.topic === topic && one.group === entry.group;
      const others = this.#list().filter(isOther);
      if (session.holdsRegistration && others.length === 0) {
        const text = JSON.stringify(topic);
        session.sendFrame(frames.subscription('unsubscribe', text, number, entry.group), true);
      } else {
        if (session.holdsRegistration && entry.info && !others.some(({ info }) => info)) {
          // The client still subscribes to the topic, but is no member of it any more.
          const more = frames.member('slow', `"${others[0].slow}"`) + frames.member('info', null);
          session.sendFrame(
            frames.subscription('subscribe', JSON.stringify(topic), number, undefined, more),
          );
        }
        this.#drop(number);
      }
    }
    return entry?.ended ?? Promise.resolve();
  }

  #list() {
    return [...this.#entries.values()];
  }

  /** Removes a subscription. `error`: why it has ended, if the program has not ended it. */
  #drop(number, error) {
    const entry = this.#entries.get(number);
    // A listener of another subscription may have ended it.
    if (!entry) {
      return;
    }
    this.#entries.delete(number);
    entry.subscription.isEnded = true;
    for (const each of entry.subscription.messageStreams) {
      each.endStream();
    }
    entry.reject(error ?? coded('ERR_WSMB_CLOSED', 'unsubscribed'));
    entry.resolveEnd?.();
    entry.subscription.emit('end', error);
  }

  /**
   * The registration has ended, and with it the subscriptions that the server's program has made, and those that the
   * program is ending: the broker will not confirm that any more.
   */
  onLost(error) {
    const lost = [...this.#entries].filter(([, { isGiven, isEnding }]) => isGiven || isEnding);
    const drop = ([number, { isEnding }]) => this.#drop(number, isEnding ? undefined : error);
    callAll(lost.map((each) => () => drop(each)));
  }

  /** The server's program has subscribed the client. Without a listener its messages go to the client. */
  #onGiven(topic) {
    const { client, requests } = this.#session;
    const isKnown = this.#list().some((one) => one.isGiven && one.subscription.topic === topic);
    if (!isKnown && client.listenerCount('subscribed') > 0) {
      const members = { isGiven: true, slow: 'drop', reject() {} };
      const number = requests.nextReference();
      client.emit('subscribed', this.#create(number, topic, undefined, members));
    }
  }

  /**
   * The broker has confirmed a subscription. If its messages are kept: `offset` and `epoch` of the log; with a position
   * whether it has `recovered` or how many messages are `lost`; the number of messages that follow (`replay`).
   */
  onSubscribed(topic, number, offset, epoch, recovered, lost = null, replay) {
    if (number == null) {
      return this.#onGiven(topic);
    }
    const entry = this.#entries.get(number);
    entry?.resolve(entry.subscription);
    if (entry) {
      entry.isWaiting = false;
    }
    if (entry && offset != null) {
      const isKnown = entry.epoch === epoch && entry.offset <= offset;
      entry.epoch = epoch;
      if (!entry.recovers || replay === 0) {
        entry.offset = offset;
      } else if (recovered != null && !isKnown) {
        entry.offset = 0;
      }
      if (recovered != null) {
        const event = { recovered, lost: recovered ? 0 : lost };
        call(entry, () => entry.subscription.emit('recovered', event));
      }
    }
    // Programs that await `subscribe()` can add listeners before the first message is delivered.
    if (entry?.held) {
      timers.setTimeout(() => this.#release(entry), 0);
    }
  }

  /** Delivers what was held. After an error of a listener, the rest follows. */
  #release(entry) {
    const { held } = entry;
    try {
      while (held?.length > 0) {
        held.shift()();
      }
    } finally {
      if (held?.length > 0) {
        timers.setTimeout(() => this.#release(entry), 0);
      } else {
        entry.held = undefined;
      }
    }
  }

  /** A subscription has ended. `code`: the broker has ended all of this topic and group. */
  onUnsubscribed(topic, number, code, group) {
    if (!code) {
      if (this.#entries.get(number)?.isEnding) {
        this.#drop(number);
      }
      return;
    }
    const isMeant = ({ subscription }) =>
      subscription.topic === topic && subscription.group === (group ?? undefined);
    const ended = [...this.#entries].filter(([, entry]) => isMeant(entry));
    const error = remote({ code, message: `subscription to ${JSON.stringify(topic)} ended` });
    callAll(
      ended.map(
        ([each]) =>
          () =>
            this.#drop(each, error),
      ),
    );
  }

  /** The broker has refused a frame. Returns false if it is of no subscription. */
  onRefused(number, error) {
    const isKnown = this.#entries.has(number);
    if (isKnown) {
      this.#drop(number, error);
    }
    return isKnown;
  }

  /**
   * Calls a function with each subscription of a group (undefined: of none) that matches a topic; with a group also with a
   * function to call once its message is finished. The topic `'>'` means all. `offset`: that of a kept message, which a
   * subscription gets once. Returns false if there is none.
   */
  forEach(topic, group, callback, offset) {
    let isFound = false;
    for (const [number, entry] of [...this.#entries]) {
      const { subscription, isEnding } = entry;
      const { topic: pattern } = subscription;
      const isMeant = topic === '>' || pattern === topic || matches(pattern, topic);
      if (isMeant && subscription.group === (group ?? undefined)) {
        isFound = true;
        if (group) {
          let isFinished = false;
          const finish = () => {
            if (!isFinished) {
              isFinished = true;
              this.#finish(number);
            }
          };
          call(entry, () => callback(subscription, finish));
          // Several subscriptions of a client are one member.
          break;
        }
        if (!isEnding && advance(entry, offset)) {
          call(entry, () => callback(subscription));
        }
      }
    }
    return isFound;
  }

  /** Ends all: the client has ended. */
  end(error) {
    callAll([...this.#entries.keys()].map((number) => () => this.#drop(number, error)));
  }
}

module.exports = Subscriptions;
