'use strict';

// The methods of a client, the same in Node.js and in a browser: arguments in, frames out.

const { ask, LONGEST } = require('./ask');
const { aborted, coded } = require('./errors');
const frames = require('./frames');
const stream = require('./messages');

/** Where a client keeps its session; not a private field, because 1.x programs subclass by `call`. */
const kSession = Symbol('session');

/** The id of the message before, and its JSON: the next one often is for the same. */
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

/** A message as JSON. What JSON cannot express is an error here; in `send` the server complains. */
function messageText(session, message) {
  let text;
  let reason = `${typeof message} is no JSON`;
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

const wrong = (code, message, Type = TypeError) => coded(`ERR_WSMB_${code}`, message, Type);

/** The ids that are addressed, as JavaScript names them. */
function idsOf(dest) {
  const ids = [dest].flat();
  if (!ids.every((id) => typeof id === 'string' || typeof id === 'number')) {
    throw wrong('DEST', 'dest must be an id, or an array of them');
  }
  return ids.map(String);
}

function checkSignal(signal) {
  if (signal !== undefined && !signal?.addEventListener) {
    throw wrong('OPTION', '"signal" must be an AbortSignal');
  }
}

/** Asks; `count` as `ask` has it. */
async function question(session, message, dest, options, count) {
  const { timeout, signal } = options ?? {};
  const limit = timeout ?? session.options.requestTimeout;
  if (!(limit > 0)) {
    throw wrong('OPTION', `"timeout" must be more than 0 ms`, RangeError);
  }
  checkSignal(signal);
  const ids = idsOf(dest);
  const text = messageText(session, message);
  session.assertOpen();
  if (count !== undefined) {
    session.assert2();
  }
  if (session.isNobody && count !== 0) {
    throw wrong('NOT_REGISTERED', 'this client has lost its id', Error);
  }
  if (signal?.aborted) {
    throw aborted(signal);
  }
  return ask(session, {
    text,
    dest: destText(Array.isArray(dest) ? ids : ids[0]),
    ids,
    count,
    timeout: limit > LONGEST ? undefined : timeout,
    limit,
    signal,
  });
}

const methods = {
  /**
   * Sends `message` to one id or to many. With a callback, the fastest receiver's answer arrives as
   * `callback(from, answer)`. Returns false above the high-water mark: `'drain'` follows.
   */
  send(message, dest, callback) {
    const session = this[kSession];
    if (callback && typeof callback !== 'function') {
      throw new Error('Client.send(data, callback) expects "callback" to be a Function');
    }
    const isStrict = session.options.protocol === 2;
    if (isStrict && typeof dest !== 'string') {
      idsOf(dest);
    }
    const text = isStrict ? messageText(session, message) : session.toText(message);
    const to = destText(dest);
    session.assertOpen();
    if (!callback) {
      return session.push(frames.send(text, to));
    }
    const key = session.ack();
    const frame = frames.send(text, to, `"${key}"`);
    const left = Array.isArray(dest) ? dest.length : 1;
    return session.ask(
      frame,
      session.requests.addCallback(key, callback, session.resends && frame, left),
    );
  },

  /** Asks one id or many, and resolves with the fastest answer: `{ from, message }`. */
  request(message, dest, options) {
    return question(this[kSession], message, dest, options);
  },

  /** Asks many, and resolves with all that came of it: `{ answers, failed }`, both by id. */
  async requestAll(message, ids, options) {
    const count = options?.count ?? LONGEST;
    if (!(count >= 1)) {
      throw wrong('OPTION', `"count" must be at least 1`, RangeError);
    }
    return question(this[kSession], message, ids, options, Math.floor(count));
  },

  /** Sends, and resolves when the broker has told who is given it: `{ delivered, failed }`. */
  deliver(message, dest, options) {
    return question(this[kSession], message, dest, options, 0);
  },

  /** The messages from now on: `for await (const { message, from, response } of client.messages())`. */
  messages(options) {
    checkSignal(options?.signal);
    this[kSession].assertOpen();
    return stream(this[kSession], options ?? {});
  },

  /** Registers again, with another token: what was granted is renewed. `'registered'` follows. */
  register(token) {
    if (token !== undefined && typeof token !== 'string') {
      throw wrong('OPTION', 'the token must be a string');
    }
    this[kSession].register(token);
  },

  /** Gives up the id; the connection stays open. */
  unregister() {
    const session = this[kSession];
    session.assertOpen();
    session.push(frames.unregister(session.idText()));
  },

  /** Resolves with this client once it is registered; rejects with the reason if it ends before. */
  connected() {
    return this[kSession].connected();
  },

  /** Closes the connection; resolves when it has ended. */
  close() {
    return this[kSession].close();
  },

  /** By this name where there is no symbol for it. */
  [Symbol.asyncDispose ?? 'asyncDispose']() {
    return this.close();
  },

  /** Errors that the server or another client has caused, so far; without an `error` listener only counted. */
  get peerErrors() {
    return this[kSession].peerErrors;
  },

  /** Bytes that wait to be written. */
  get bufferedAmount() {
    return this[kSession].bufferedAmount;
  },
};

/** Gives them to a class. */
function define(Class) {
  Object.defineProperties(Class.prototype, Object.getOwnPropertyDescriptors(methods));
}

module.exports = { define, kSession };
