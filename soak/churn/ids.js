'use strict';

// The ids, all of the same length: whoever has the number has the id.

const PREFIX = 'client-';
const DIGITS = 9;

const idOf = (number) => `${PREFIX}${String(number).padStart(DIGITS, '0')}`;

module.exports = { PREFIX, BYTES: PREFIX.length + DIGITS, idOf };
