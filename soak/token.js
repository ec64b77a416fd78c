'use strict';

// Tokens that the secure server of the soak test accepts: JWTs with a shared secret.

const { createHmac } = require('node:crypto');

/** The issuer that the server accepts. */
const ISSUER = 'soak';

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** A token with these claims. An `alg` other than HS256 changes the header only, not the signature. */
function sign(claims, secret, alg = 'HS256') {
  const text = `${part({ alg, typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

/** A time in the unit of tokens: whole seconds since 1970. */
const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;

module.exports = { ISSUER, inSeconds, sign };
