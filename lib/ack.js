'use strict';

const { randomFillSync } = require('node:crypto');

const CHARACTERS = 'abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const LENGTH = 20;

/** Random bytes, drawn in numbers: a draw costs more than what it draws. */
const pool = Buffer.alloc(4096);
let used = pool.length;

/** The next random number below 64. */
function draw() {
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  used += 1;
  return pool[used - 1] & 63;
}

/** An ack: 20 letters and digits that nobody can guess. */
function ack() {
  let text = '';
  while (text.length < LENGTH) {
    // Empty for the two numbers without a character: taking a remainder would favour some.
    text += CHARACTERS.charAt(draw());
  }
  return text;
}

module.exports = ack;
