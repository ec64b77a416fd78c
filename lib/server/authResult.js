'use strict';

// Calls `authenticate` and `authorize`, and converts the values that they return or throw to results for the addon.

const { isPattern } = require('../client/topics');

const UNAUTHORIZED = 4401;
const FORBIDDEN = 4403;
/** Maximum bytes of a reason: it must fit into a close frame. */
const MAX_REASON = 120;

const refused = (code, reason) => ({ code, reason: shorten(reason) });

/** Shortens a text to `MAX_REASON` bytes, without half a character at its end. */
function shorten(text) {
  let short = text.slice(0, MAX_REASON);
  while (Buffer.byteLength(short) > MAX_REASON) {
    short = short.slice(0, -1);
  }
  return short.toWellFormed?.() ?? short;
}

/** The members that a grant may have. */
const MEMBERS = [
  'principal',
  'send',
  'publish',
  'subscribe',
  'presence',
  'watch',
  'mailboxes',
  'expires',
];

/** Describes a value by its type alone: its contents may be secret. */
function kindOf(value) {
  if (typeof value !== 'object') {
    return `a ${typeof value}`;
  }
  const name = Object.getPrototypeOf(value).constructor?.name;
  return name === 'Object' ? 'not a plain object' : `an instance of ${String(name)}`;
}

/** True for a plain object, also one of another `node:vm` context, such as Jest's, with its own `Object`. */
function isPlain(object) {
  const prototype = Object.getPrototypeOf(object);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Throws unless `result` is a valid grant. An object of another kind must not become a grant without limits. */
function checkGrant(result) {
  if (typeof result !== 'object' || !isPlain(result)) {
    const expected = 'expected true, false or a plain object';
    throw new TypeError(`authenticate returned ${kindOf(result)}, ${expected}`);
  }
  const unknown = Reflect.ownKeys(result).find((key) => !MEMBERS.includes(key));
  if (unknown !== undefined) {
    const expected = `expected ${MEMBERS.join(', ')}`;
    throw new TypeError(
      `authenticate: unknown member "${String(unknown)}" of a grant, ${expected}`,
    );
  }
}

/** Checks a principal. An empty or missing name would be shared by all clients without a name. */
function checkPrincipal(principal) {
  const named = typeof principal === 'string' ? principal !== '' : Number.isFinite(principal);
  if (!named) {
    const expected = 'expected a string that is not empty, or a finite number';
    const found = typeof principal === 'string' ? 'empty' : `of type ${typeof principal}`;
    throw new TypeError(`authenticate: "principal" is ${found}, ${expected}`);
  }
  return String(principal);
}

/** Checks a list of patterns. Returns a copy, so that the addon gets the values that were checked. */
function checkPatterns(name, patterns) {
  const list = Array.isArray(patterns) ? [...patterns] : [patterns];
  if (!list.every((pattern) => typeof pattern === 'string')) {
    throw new TypeError(`authenticate: "${name}" must be a string or an array of strings`);
  }
  return list;
}

/** Converts the value that `authenticate` returned: true or a grant, or false, undefined or null for a denial. */
function toResult(result) {
  if (result === true) {
    return {};
  }
  if (result === false || result === undefined || result === null) {
    return refused(UNAUTHORIZED, 'not authenticated');
  }
  checkGrant(result);
  const { principal, send, publish, subscribe, presence, watch, mailboxes, expires } = result;
  const granted = {};
  if (principal !== undefined) {
    granted.principal = checkPrincipal(principal);
  }
  if (send !== undefined) {
    granted.send = checkPatterns('send', send);
  }
  for (const [name, topics] of Object.entries({ publish, subscribe, presence })) {
    if (topics !== undefined) {
      granted[name] = checkPatterns(name, topics);
      const wrong = granted[name].find((pattern) => !isPattern(pattern));
      if (wrong !== undefined) {
        throw new TypeError(`authenticate: "${name}" has ${JSON.stringify(wrong)}, not a pattern`);
      }
    }
  }
  if (watch !== undefined) {
    granted.watch = checkPatterns('watch', watch);
  }
  if (mailboxes !== undefined) {
    granted.mailboxes = checkPatterns('mailboxes', mailboxes);
  }
  if (expires !== undefined) {
    granted.expires = Number(expires);
    if (!Number.isFinite(granted.expires)) {
      throw new TypeError('authenticate: "expires" must be a Date or a number of milliseconds');
    }
  }
  return granted;
}

/** The result of an error with which `authenticate` denies the client; undefined for any other error. */
function toDenial(error) {
  switch (error?.code) {
    case 'ERR_WSMB_UNAUTHORIZED':
      return refused(UNAUTHORIZED, String(error.message));
    case 'ERR_WSMB_FORBIDDEN':
      return refused(FORBIDDEN, String(error.message));
  }
}

/** The error to emit if a function has thrown undefined or null. */
const thrownNothing = (error) => new TypeError(`the function threw ${error}`);

/** The result of a thrown value. Reading its members may throw, too. */
function fromThrown(error) {
  const result = refused(UNAUTHORIZED, 'not authenticated');
  try {
    const denial = toDenial(error);
    return denial ? { result: denial } : { result, fault: error ?? thrownNothing(error) };
  } catch (fault) {
    return { result, fault: fault ?? thrownNothing(fault) };
  }
}

/**
 * Calls `authenticate`. Returns the result for the addon, and the fault of `authenticate`, if any. A fault denies the
 * client, which does not learn the reason. Never rejects.
 */
async function authResult(authenticate, credentials) {
  try {
    return { result: toResult(await authenticate(credentials)) };
  } catch (error) {
    return fromThrown(error);
  }
}

/**
 * Calls `authorize`. Returns the result for the addon, which has a code if the subscription is refused, and the fault of
 * `authorize`, if any. Never rejects.
 */
async function topicResult(authorize, request) {
  try {
    const allowed = await authorize(request);
    if (typeof (allowed ?? false) !== 'boolean') {
      throw new TypeError(`authorize returned ${kindOf(allowed)}, expected true or false`);
    }
    return { result: allowed ? {} : refused(FORBIDDEN, '') };
  } catch (error) {
    return fromThrown(error);
  }
}

module.exports = { authResult, topicResult };
