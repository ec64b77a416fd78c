'use strict';

const { randomFillSync } = require('node:crypto');

const CHARACTERS = 'abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const LENGTH = 20;

/** Random characters, drawn in numbers: a draw costs more than what it draws. */
const DRAW = 4096;
const pool = Buffer.alloc(DRAW);
let drawn = 0;
let used = 0;

function draw() {
  randomFillSync(pool);
  drawn = 0;
  for (const byte of pool) {
    // The two numbers without a character are left out: taking a remainder would favour some.
    const character = byte & 63;
    if (character < CHARACTERS.length) {
      pool[drawn] = CHARACTERS.charCodeAt(character);
      drawn += 1;
    }
  }
  used = 0;
}

/** An ack: 20 letters and digits that nobody can guess. */
function ack() {
  if (used + LENGTH > drawn) {
    draw();
  }
  used += LENGTH;
  // A text of its own: a part of a larger one would keep all of that for as long as it is awaited.
  return pool.latin1Slice(used - LENGTH, used);
}

module.exports = ack;
