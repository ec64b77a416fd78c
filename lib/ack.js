'use strict';

const { randomFillSync } = require('node:crypto');

const CHARACTERS = 'abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const LENGTH = 20;

/** Random characters, drawn in numbers: a draw costs more than what it draws. */
const DRAW = 4096;
let pool = '';
let used = 0;

function draw() {
  const bytes = randomFillSync(Buffer.allocUnsafe(DRAW));
  let length = 0;
  for (const byte of bytes) {
    // The two numbers without a character are left out: taking a remainder would favour some.
    const character = byte & 63;
    if (character < CHARACTERS.length) {
      bytes[length] = CHARACTERS.charCodeAt(character);
      length += 1;
    }
  }
  pool = bytes.latin1Slice(0, length);
  used = 0;
}

/** An ack: 20 letters and digits that nobody can guess. */
function ack() {
  if (used + LENGTH > pool.length) {
    draw();
  }
  used += LENGTH;
  return pool.slice(used - LENGTH, used);
}

module.exports = ack;
