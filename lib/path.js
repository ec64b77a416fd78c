'use strict';

/** Characters that a path in an HTTP request cannot contain. Existing escapes stay as they are. */
const UNSAFE = /[^\x21-\x7e]|["<>\\^`{|}]/gu;

/** A path with escapes in place of the characters that an HTTP request cannot contain. */
const encodePath = (path) => path.replace(UNSAFE, encodeURIComponent);

module.exports = { encodePath };
