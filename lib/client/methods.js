'use strict';

// The public methods of a client, in Node.js and in browsers: they check arguments, and write frames.

const { aborted, coded } = require('./errors');
const frames = require('./frames');
const stream = require('./messages');
const { PendingRequest, MAX_TIMER } = require('./pendingRequest');

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
    text = session.toJsonText(message);
  } catch (error) {
    reason = error.message;
  }
  if (text === undefined) {
    throw wrong('MESSAGE', reason);
  }
  return text;
}

const wrong = (code, message, Type = TypeError) => coded(`ERR_WSMB_${code}`, message, Type);

/** The receivers as an array of strings. */
function idsOf(dest) {
  const ids = [dest].flat();
  if (!ids.every((id) => typeof id === 'string' || typeof id === 'number')) {
    throw wrong('DEST', 'dest must be an id or array of ids');
  }
  return ids.map(String);
}

function checkSignal(signal) {
  if (signal !== undefined && !signal?.addEventListener) {
    throw wrong('OPTION', 'option "signal" must be an AbortSignal');
  }
}

/** Checks the arguments of a request, and sends it. For `count` see `PendingRequest`. */
async function startRequest(session, message, dest, options, count) {
  const { timeout, signal } = options ?? {};
  const limit = timeout ?? session.settings.requestTimeout;
  if (!(limit > 0)) {
    throw wrong('OPTION', `option "timeout" is ${limit}, expected more than 0 ms`, RangeError);
  }
  checkSignal(signal);
  const ids = idsOf(dest);
  const text = messageText(session, message);
  session.assertOpen();
  if (count !== undefined) {
    session.assertVersion2();
  }
  if (session.hasLostId && count !== 0) {
    throw wrong('NOT_REGISTERED', 'id was lost: call register()', Error);
  }
  if (signal?.aborted) {
    throw aborted(signal);
  }
  const to = destText(Array.isArray(dest) ? ids : ids[0]);
  const brokerTimeout = limit > MAX_TIMER ? undefined : timeout;
  return new PendingRequest(session, ids, count, signal).start(text, to, limit, brokerTimeout);
}

const methods = {
  /**
   * Sends `message` to one id or to several. `callback(from, answer)` is called with the first answer. Returns
   * false above the high-water mark; a `'drain'` event follows.
   */
  send(message, dest, callback) {
    const session = this[kSession];
    if (callback && typeof callback !== 'function') {
      throw new Error('Client.send(data, callback) expects "callback" to be a Function');
    }
    const isStrict = session.settings.protocol === 2;
    if (isStrict && typeof dest !== 'string') {
      idsOf(dest);
    }
    // With protocol 1 the broker reports an invalid message.
    const text = isStrict ? messageText(session, message) : session.toJsonText(message);
    const to = destText(dest);
    session.assertOpen();
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
  request(message, dest, options) {
    return startRequest(this[kSession], message, dest, options);
  },

  /** Sends a request to several ids. Resolves with all answers and failures: two Maps by id. */
  async requestAll(message, ids, options) {
    const count = options?.count ?? MAX_TIMER;
    if (!(count >= 1)) {
      throw wrong('OPTION', `option "count" is ${count}, expected at least 1`, RangeError);
    }
    return startRequest(this[kSession], message, ids, options, Math.floor(count));
  },

  /** Sends a message. Resolves with the broker's receipt: `{ delivered, failed }`. */
  deliver(message, dest, options) {
    return startRequest(this[kSession], message, dest, options, 0);
  },

  /** An async iterator of incoming messages: `{ message, from, response }`. */
  messages(options) {
    checkSignal(options?.signal);
    this[kSession].assertOpen();
    return stream(this[kSession], options ?? {});
  },

  /** Registers again with another token, which renews the grant. A `'registered'` event follows. */
  register(token) {
    if (token !== undefined && typeof token !== 'string') {
      throw wrong('OPTION', 'token must be a string');
    }
    this[kSession].register(token);
  },

  /** Gives up the id. The connection stays open. */
  unregister() {
    const session = this[kSession];
    session.assertOpen();
    session.sendFrame(frames.unregister(session.idText()));
  },

  /** Resolves with this client when it is registered. Rejects if the client ends before. */
  connected() {
    return this[kSession].connected();
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
