'use strict';

// Ids of equal length, derived from their number.

const PREFIX = 'client-';
const DIGITS = 9;

const idOf = (number) => `${PREFIX}${String(number).padStart(DIGITS, '0')}`;

module.exports = { PREFIX, BYTES: PREFIX.length + DIGITS, idOf };
