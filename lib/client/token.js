'use strict';

// The token of a client, and its address, if the program gives functions for them.

const { coded, exceeded } = require('./errors');
const { startWait } = require('./wait');

/** Time before the expiry of a token at which it is renewed, at most, in milliseconds. */
const MAX_MARGIN = 60_000;
/** A token that expires within this time is not renewed: a function may return the same one again and again. */
const MIN_LEFT = 1000;

/** The token and the address, or what functions of the program return in their place, within `limit` milliseconds. */
function resolveToken(limit, ...values) {
  return new Promise((resolve, reject) => {
    const expire = () => reject(exceeded('ETIMEDOUT', 'connectTimeout', limit));
    const stop = startWait(limit, undefined, expire);
    const results = values.map(async (value) => (typeof value === 'function' ? value() : value));
    Promise.all(results).finally(stop).then(resolve, reject);
  }).then((results) => {
    const type = typeof results[0];
    if (type !== 'undefined' && type !== 'string') {
      throw coded('ERR_WSMB_OPTION', `token() returned ${type}`);
    }
    return results;
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

module.exports = { resolveToken, renewalDelay };
