'use strict';

// The public methods of a client, in Node.js and in browsers: they check arguments, and write frames.

const { checkOptions, wrong } = require('./arguments');
const { aborted } = require('./errors');
const frames = require('./frames');
const handle = require('./handle');
const history = require('./history');
const stream = require('./messages');
const PendingRequest = require('./pendingRequest');
const repeat = require('./retry');
const { checkPattern, checkTopic, isTopic } = require('./topics');
const { MAX_TIMER } = require('./wait');

/** The key of a client's session. Not a private field, because programs of 1.x create subclasses by `call`. */
const kSession = Symbol('session');

/** The id of the previous message and its JSON text: consecutive messages often have the same receiver. */
let lastId = '';
let lastIdText = '""';

function destText(dest) {
  if (typeof dest !== 'string') {
    return JSON.stringify(dest);
  }
  if (dest !== lastId) {
    lastIdText = JSON.stringify(dest);
    lastId = dest;
  }
  return lastIdText;
}

/** A message as JSON text. Throws if JSON cannot represent it. */
function messageText(session, message) {
  let text;
  let reason = `message is ${typeof message}, expected JSON`;
  try {
    text = session.toText(message);
  } catch (error) {
    reason = error.message;
  }
  if (text === undefined) {
    throw wrong('MESSAGE', reason);
  }
  return text;
}

/** Ids, or names of mailboxes, as an array of strings. */
function namesOf(dest) {
  const names = Array.isArray(dest) ? [...dest] : [dest];
  if (!names.every((name) => typeof name === 'string' || typeof name === 'number')) {
    throw wrong('DEST', 'dest must be an id or several');
  }
  return names.map(String);
}

/** The receivers as an array of strings; undefined for a topic or mailboxes. */
function idsOf(dest) {
  if (dest?.topic !== undefined) {
    checkTopic(dest.topic);
  } else if (dest?.mailbox !== undefined) {
    checkMailboxes(namesOf(dest.mailbox));
  } else {
    return namesOf(dest);
  }
}

function checkMailboxes(names) {
  if (names.length === 0 || names.some((name) => !name || /\p{Cs}/u.test(name))) {
    throw wrong('DEST', 'mailbox must be a name or several');
  }
}

/** A `dest` that is an object, with nothing but its topic or its mailboxes. */
function objectOf({ topic, mailbox }) {
  if (topic !== undefined) {
    return { topic };
  }
  const names = namesOf(mailbox);
  return { mailbox: Array.isArray(mailbox) ? names : names[0] };
}

function checkToken(token) {
  if (token !== undefined && typeof token !== 'string') {
    throw wrong('OPTION', 'token must be a string');
  }
}

/** The members of a subscription with its option `since`. */
function checkSince(since) {
  const { last, offset, epoch } = since === 'here' ? { last: 0 } : Object(since);
  const isCount = (value) => Number.isInteger(value) && value >= 0;
  if (!(isCount(last) || (isCount(offset) && typeof epoch === 'string'))) {
    throw wrong('OPTION', 'option "since" must be "here", { last } or a position');
  }
  return { last, offset, epoch, recovers: true };
}

/** The JSON text of receivers, which are checked unless their `ids` are given. */
const checkedText = (dest, ids = idsOf(dest)) =>
  destText(ids ? (Array.isArray(dest) ? ids : ids[0]) : objectOf(dest));

/** Checks an idempotency key: a string of at most 128 bytes. */
function checkKey(key, isMail) {
  if (key === undefined) {
    return;
  }
  const isKey =
    typeof key === 'string' && key !== '' && new TextEncoder().encode(key).length <= 128;
  if (!isKey || /\p{Cs}/u.test(key)) {
    throw wrong('OPTION', 'option "key" must be a string of 1 to 128 bytes');
  }
  if (!isMail) {
    throw wrong('OPTION', 'option "key" needs a mailbox');
  }
}

/** An idempotency key that no other message has. */
function newKey() {
  const random = () => Math.random().toString(36).slice(2, 14);
  return `${random()}${random()}`;
}

const lostId = () => wrong('NOT_REGISTERED', 'id was lost: call register()', Error);

/** Checks the arguments of a request, and sends it. `extras`: its further options; for `count` see `PendingRequest`. */
function startRequest(session, message, dest, options, extras, count) {
  const checked = checkOptions(options, 'timeout', 'signal', ...extras);
  const { timeout, signal, waitFor, retry = 0, key } = checked;
  const limit = timeout ?? session.settings.requestTimeout;
  const ids = idsOf(dest);
  const isMail = !ids && dest.topic === undefined;
  if (isMail && count !== 0) {
    throw wrong('DEST', 'a mailbox does not answer: use deliver()');
  }
  checkKey(key, isMail);
  const text = messageText(session, message);
  const start = (to, left, brokerTimeout, attempt) => {
    session.assertOpen(true);
    if (count !== undefined) {
      session.assertVersion2();
    }
    if (session.hasLostId && count !== 0) {
      throw lostId();
    }
    if (signal?.aborted) {
      throw aborted(signal);
    }
    const request = new PendingRequest(session, to, count, signal);
    if (isMail) {
      // Sent again after a lost connection, it is stored once.
      request.mailKey = key ?? (session.reconnects ? newKey() : undefined);
    }
    return request.start(
      text,
      checkedText(dest, to),
      left,
      left > MAX_TIMER ? undefined : brokerTimeout,
      attempt,
    );
  };
  if (waitFor > 0 || retry > 0) {
    const again = (to, left, attempt) => start(to, left, left, attempt);
    return repeat(again, ids, { waitFor, retry, limit, signal });
  }
  return start(ids, limit, timeout);
}

/** The session of a client that can begin something which needs its id. */
function openSession(client) {
  const session = client[kSession];
  session.assertOpen();
  if (session.hasLostId) {
    throw lostId();
  }
  return session;
}

/** The treatments of a slow subscriber. */
const SLOW = ['drop', 'latest', 'wait'];

const methods = {
  /**
   * Sends `message` to one id or to several. `callback(from, answer)` is called with the first answer. Returns
   * false above the high-water mark; a `'drain'` event follows.
   */
  send(message, dest, callback) {
    const session = this[kSession];
    if (callback && typeof callback !== 'function') {
      throw wrong('OPTION', 'callback must be a function');
    }
    const { isStrict } = session;
    // Unless the program asks for version 2, the broker reports an invalid message, as in 1.7.2.
    const text = isStrict ? messageText(session, message) : session.toText(message);
    const to = isStrict && typeof dest !== 'string' ? checkedText(dest) : destText(dest);
    session.assertOpen(true);
    if (!callback) {
      return session.sendFrame(frames.send(text, to));
    }
    const key = session.ack();
    const frame = frames.send(text, to, `"${key}"`);
    const receivers = Array.isArray(dest) ? dest.length : 1;
    return session.sendRequest(
      frame,
      session.requests.addCallback(key, callback, session.resendsRequests && frame, receivers),
    );
  },

  /** Sends a request to one id or to several. Resolves with the first answer: `{ from, message }`. */
  async request(message, dest, options) {
    return startRequest(this[kSession], message, dest, options, ['waitFor', 'retry']);
  },

  /** Sends a request to several ids. Resolves with all answers and failures: two Maps by id. */
  async requestAll(message, ids, options) {
    const count = Math.floor(Object(options).count ?? MAX_TIMER);
    return startRequest(this[kSession], message, ids, options, ['count'], count);
  },

  /** Sends a message. Resolves with the broker's receipt: `{ delivered, failed }`; see index.d.ts for topics and mailboxes. */
  async deliver(message, dest, options) {
    return startRequest(this[kSession], message, dest, options, ['waitFor', 'key'], 0);
  },

  /** Sends a message to the subscribers of a topic: the same as `send(message, { topic })`. */
  publish(message, topic) {
    checkTopic(topic);
    return this.send(message, { topic });
  },

  /**
   * Subscribes to a topic or a pattern; with `group` as one of several workers. Resolves with a `Subscription` when the
   * broker has confirmed it.
   */
  async subscribe(topic, options) {
    const {
      slow = 'drop',
      group,
      window,
      info,
      token,
      since,
    } = checkOptions(options, 'slow', 'group', 'window', 'info', 'token', 'since');
    checkPattern(topic);
    if (!SLOW.includes(slow)) {
      throw wrong('OPTION', `option "slow" is ${JSON.stringify(slow)}, expected ${SLOW}`);
    }
    if (group !== undefined && !(isTopic(group) && !group.includes('.'))) {
      throw wrong('TOPIC', `group is ${JSON.stringify(group)}, expected a token`);
    }
    if (info !== undefined && (group !== undefined || !isTopic(topic))) {
      throw wrong('OPTION', 'option "info" needs a topic without wildcards, and no group');
    }
    checkToken(token);
    const start = since === undefined ? undefined : checkSince(since);
    if (start && group !== undefined) {
      throw wrong('OPTION', 'option "since" needs no group');
    }
    const session = openSession(this);
    const text = info === undefined ? undefined : messageText(session, info);
    return session.subscriptions.add(topic, { slow, group, window, info: text, token, start });
  },

  /**
   * Reads kept messages of a topic or a pattern. Resolves with `{ messages, more, next, epoch }`; also an async iterable of
   * the messages.
   */
  history(topic, options) {
    const checked = checkOptions(options, 'before', 'after', 'limit');
    checkPattern(topic);
    return history(this[kSession], topic, checked);
  },

  /**
   * Opens a mailbox, by default that of this client's id: its messages are delivered from now on. Resolves with a `Mailbox`
   * when the broker has confirmed it.
   */
  async openMailbox(name, options) {
    const { window } = checkOptions(options, 'window');
    const session = openSession(this);
    const names = namesOf(name ?? this.id);
    checkMailboxes(names);
    return session.mailboxes.open(names[0], window);
  },

  /** Watches the members of a topic. Resolves with a `Watch` when they are known. */
  async presence(topic) {
    checkTopic(topic);
    return openSession(this).watches.add(topic);
  },

  /** Watches whether ids are online. Resolves with a `Watch` when that is known. */
  async watch(ids) {
    const list = [...new Set(idsOf(ids))];
    // The broker would name one with a lone surrogate differently.
    if (list.length === 0 || list.some((id) => !id || /\p{Cs}/u.test(id))) {
      throw wrong('DEST', 'ids must be an id or several');
    }
    return openSession(this).watches.add(undefined, list);
  },

  /** An async iterator of incoming messages: `{ message, from, response }`. */
  messages(options) {
    const checked = checkOptions(options, 'highWaterMark', 'signal');
    this[kSession].assertOpen();
    return stream(this[kSession], checked);
  },

  /** Answers incoming messages with the results of a function. Returns a function that stops it. */
  handle(handler, options) {
    return handle(this[kSession], handler, options);
  },

  /** Registers again with another token, which renews the grant. A `'registered'` event follows. */
  register(token) {
    checkToken(token);
    this[kSession].register(token);
  },

  /** Gives up the id. The connection stays open. */
  unregister() {
    const session = this[kSession];
    session.assertOpen();
    session.sendFrame(frames.unregister(session.idText()));
  },

  /** Resolves with this client when it is registered. Rejects if the client ends before, or the wait. */
  async connected(options) {
    return this[kSession].connected(checkOptions(options, 'timeout', 'signal'));
  },

  /** `'connecting'`, `'open'`, `'registered'`, `'reconnecting'` or `'closed'`. */
  get state() {
    return this[kSession].state;
  },

  /** Connects at once if the client waits for its next attempt to connect. */
  reconnectNow() {
    this[kSession].reconnectNow();
  },

  /** Gives up the id, waits for pending requests in both directions, and closes. Resolves when that is done. */
  drain() {
    return this[kSession].drain();
  },

  /** Closes the connection. Resolves when it has ended. */
  close() {
    return this[kSession].close();
  },

  /** Closes the connection at the end of an `await using` block. */
  [Symbol.asyncDispose ?? 'asyncDispose']() {
    return this.close();
  },

  /** Number of errors caused by the broker or another client. Without an `error` listener they are only counted. */
  get peerErrors() {
    return this[kSession].peerErrors;
  },

  /** Approximate number of bytes queued for sending. */
  get bufferedAmount() {
    return this[kSession].bufferedAmount;
  },
};

/** Adds the methods to a class. */
function define(Class) {
  Object.defineProperties(Class.prototype, Object.getOwnPropertyDescriptors(methods));
}

module.exports = { define, kSession };
