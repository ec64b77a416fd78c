'use strict';

/** Time before the expiry of a token at which it is renewed, at most, in milliseconds. */
const MAX_MARGIN = 60_000;

/**
 * The time in milliseconds after which a token should be renewed: a tenth before its claim `exp`. Undefined if the token
 * has expired, or is no JWT with such a claim.
 */
function renewalDelay(token) {
  try {
    const [, payload] = token.split('.');
    const { exp } = JSON.parse(atob(payload.replace(/-/g, '+').replace(/_/g, '/')));
    // The only use of the wall clock, which tokens refer to.
    const left = exp * 1000 - Date.now();
    return left > 0 ? left - Math.min(left / 10, MAX_MARGIN) : undefined;
  } catch {
    return undefined;
  }
}

module.exports = renewalDelay;
