'use strict';

// Tokens as the server of the soak takes them: JWTs under a shared secret.

const { createHmac } = require('node:crypto');

/** Whom the server believes. */
const ISSUER = 'soak';

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** A token with these claims. An `alg` other than HS256 is only said: the signature stays the same. */
function sign(claims, secret, alg = 'HS256') {
  const text = `${part({ alg, typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

/** A time as tokens have it: whole seconds since 1970. */
const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;

module.exports = { ISSUER, inSeconds, sign };
