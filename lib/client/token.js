'use strict';

// The token of a client, if the program gives a function for it.

const { coded, exceeded } = require('./errors');
const timers = require('./timers');

/** Time before the expiry of a token at which it is renewed, at most, in milliseconds. */
const MAX_MARGIN = 60_000;
/** A token that expires within this time is not renewed: a function may return the same one again and again. */
const MIN_LEFT = 1000;

/** The result of the token function. Rejects if it is no token, or takes longer than `connectTimeout`. */
function requestToken({ token, connectTimeout }) {
  let timer;
  return new Promise((resolve, reject) => {
    const expire = () => reject(exceeded('ETIMEDOUT', 'connectTimeout', connectTimeout));
    timer = timers.setTimeout(expire, connectTimeout);
    new Promise((settle) => settle(token())).then(resolve, reject);
  })
    .finally(() => timers.clearTimeout(timer))
    .then((value) => {
      if (value !== undefined && typeof value !== 'string') {
        throw coded('ERR_WSMB_OPTION', `token() returned ${typeof value}`);
      }
      return value;
    });
}

/**
 * The time in milliseconds after which a token should be renewed: a tenth before its claim `exp`. Undefined if the token
 * is about to expire, or is no JWT with such a claim.
 */
function renewalDelay(token) {
  try {
    const [, payload] = token.split('.');
    const { exp } = JSON.parse(atob(payload.replace(/-/g, '+').replace(/_/g, '/')));
    // The only use of the wall clock, which tokens refer to.
    const left = exp * 1000 - Date.now();
    return left > MIN_LEFT ? left - Math.min(left / 10, MAX_MARGIN) : undefined;
  } catch {
    return undefined;
  }
}

module.exports = { requestToken, renewalDelay };
