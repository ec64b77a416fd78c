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

/** True for an error that says why a client is refused, and that the client may see. */
function isRefusal(error) {
  return error?.code === 'ERR_WSMB_UNAUTHORIZED' || error?.code === 'ERR_WSMB_FORBIDDEN';
}

/** `true` or an object grant; all else refuses. A TypeError names a member of a wrong type. */
function granted(result) {
  if (result === true) {
    return {};
  }
  if (typeof result !== 'object' || result === null) {
    return refused(UNAUTHORIZED, 'not authenticated');
  }
  const { principal, send, expires } = result;
  const verdict = {};
  if (principal !== undefined) {
    // A missing name made into a text would be one that all who have none share.
    if (typeof principal !== 'string' && typeof principal !== 'number') {
      throw new TypeError('authenticate: "principal" is neither a string nor a number');
    }
    verdict.principal = String(principal);
  }
  if (send !== undefined) {
    const patterns = typeof send === 'string' ? [send] : send;
    if (!Array.isArray(patterns) || !patterns.every((pattern) => typeof pattern === 'string')) {
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

/** What a refusal that was thrown says. */
function thrown(error) {
  const code = error.code === 'ERR_WSMB_FORBIDDEN' ? FORBIDDEN : UNAUTHORIZED;
  return refused(code, String(error.message));
}

/**
 * Asks `authenticate`: what the addon is to do, and the fault that `authenticate` had, if any. A
 * fault refuses, too: the client does not see what broke.
 */
async function verdict(authenticate, credentials) {
  try {
    return { answer: granted(await authenticate(credentials)) };
  } catch (error) {
    if (isRefusal(error)) {
      return { answer: thrown(error) };
    }
    return { answer: refused(UNAUTHORIZED, 'not authenticated'), fault: error };
  }
}

module.exports = verdict;
