'use strict';

// Creates acks in Node.js from a pool of random characters.

const { randomFillSync } = require('node:crypto');

const CHARACTERS = 'abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const LENGTH = 20;

/** Random bytes requested at once: a request takes longer than the generation of the bytes. */
const POOL_SIZE = 4096;
const pool = Buffer.alloc(POOL_SIZE);
let filled = 0;
let used = 0;

function fillPool() {
  randomFillSync(pool);
  filled = 0;
  for (const byte of pool) {
    // Two of 64 numbers have no character, and are skipped: a remainder would prefer some characters.
    const character = byte & 63;
    if (character < CHARACTERS.length) {
      pool[filled] = CHARACTERS.charCodeAt(character);
      filled += 1;
    }
  }
  used = 0;
}

/** Creates an ack: 20 random letters and digits, which other clients cannot guess. */
function ack() {
  if (used + LENGTH > filled) {
    fillPool();
  }
  used += LENGTH;
  // A new string: a slice of a larger string would keep all of it in memory while the ack is pending.
  return pool.latin1Slice(used - LENGTH, used);
}

module.exports = ack;
