'use strict';

// What `authenticate` returned or threw, as the addon wants it.

const UNAUTHORIZED = 4401;
const FORBIDDEN = 4403;
/** Bytes of a reason that fit into a close frame. */
const REASON = 120;

const refused = (code, reason) => ({ code, reason: shorten(reason) });

/** The beginning of a text, cut between characters. */
function shorten(text) {
  let short = text.slice(0, REASON);
  while (Buffer.byteLength(short) > REASON) {
    short = short.slice(0, -1);
  }
  return short.toWellFormed?.() ?? short;
}

/** What a grant may have. */
const MEMBERS = ['principal', 'send', 'expires'];

/** What kind of value this is. Its contents may be secret. */
function kind(value) {
  if (typeof value !== 'object') {
    return `a ${typeof value}`;
  }
  const name = Object.getPrototypeOf(value).constructor?.name;
  return name === 'Object' ? 'no plain object' : `an instance of ${String(name)}`;
}

/** True for an object of no class; in a context of `node:vm`, as Jest's, `Object` is another one. */
function isPlain(object) {
  const prototype = Object.getPrototypeOf(object);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Throws for what is no grant. An object that says something else must not be one without limits. */
function checkGrant(result) {
  if (typeof result !== 'object' || !isPlain(result)) {
    const expected = 'expected true, false or a plain object';
    throw new TypeError(`authenticate returned ${kind(result)}, ${expected}`);
  }
  const unknown = Reflect.ownKeys(result).find((key) => !MEMBERS.includes(key));
  if (unknown !== undefined) {
    throw new TypeError(`authenticate: a grant has no member "${String(unknown)}"`);
  }
}

/** A name: what is missing or empty would be one that all who have none share. */
function checkPrincipal(principal) {
  const named = typeof principal === 'string' ? principal !== '' : Number.isFinite(principal);
  if (!named) {
    const expected = 'expected a string that is not empty, or a finite number';
    const found = typeof principal === 'string' ? 'empty' : `of type ${typeof principal}`;
    throw new TypeError(`authenticate: "principal" is ${found}, ${expected}`);
  }
  return String(principal);
}

/** `true` or a grant lets in, nothing or `false` refuses; a TypeError says what all else is. */
function granted(result) {
  if (result === true) {
    return {};
  }
  if (result === false || result === undefined || result === null) {
    return refused(UNAUTHORIZED, 'not authenticated');
  }
  checkGrant(result);
  const { principal, send, expires } = result;
  const verdict = {};
  if (principal !== undefined) {
    verdict.principal = checkPrincipal(principal);
  }
  if (send !== undefined) {
    // A copy: what is checked is what the addon gets.
    const patterns = Array.isArray(send) ? [...send] : [send];
    if (!patterns.every((pattern) => typeof pattern === 'string')) {
      throw new TypeError('authenticate: "send" is neither a string nor an array of strings');
    }
    verdict.send = patterns;
  }
  if (expires !== undefined) {
    verdict.expires = Number(expires);
    if (!Number.isFinite(verdict.expires)) {
      throw new TypeError('authenticate: "expires" is neither a Date nor a number');
    }
  }
  return verdict;
}

/** What a refusal that was thrown says; none, if it is a fault rather. */
function refusal(error) {
  switch (error?.code) {
    case 'ERR_WSMB_UNAUTHORIZED':
      return refused(UNAUTHORIZED, String(error.message));
    case 'ERR_WSMB_FORBIDDEN':
      return refused(FORBIDDEN, String(error.message));
  }
}

/** A listener of `error` may count on an error that is there. */
const nothing = (error) => new TypeError(`authenticate threw ${error}`);

/** The answer to what was thrown. Looking at it may throw, too. */
function thrown(error) {
  const answer = refused(UNAUTHORIZED, 'not authenticated');
  try {
    const told = refusal(error);
    return told ? { answer: told } : { answer, fault: error ?? nothing(error) };
  } catch (fault) {
    return { answer, fault: fault ?? nothing(fault) };
  }
}

/**
 * Asks `authenticate`: what the addon is to do, and the fault that `authenticate` had, if any. A
 * fault refuses, too: the client does not see what broke. Never rejects.
 */
async function verdict(authenticate, credentials) {
  try {
    return { answer: granted(await authenticate(credentials)) };
  } catch (error) {
    return thrown(error);
  }
}

module.exports = verdict;
