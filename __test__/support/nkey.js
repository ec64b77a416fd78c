'use strict';

// Keys with which NATS authenticates users without a password: Ed25519 in base32, with a prefix for the kind
// of key, and a CRC-16.

const crypto = require('node:crypto');

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const SEED = 18 << 3;
const USER = 20 << 3;
/** The bytes of a PKCS #8 key before the 32 bytes of the seed. */
const HEAD = Buffer.from('302e020100300506032b657004220420', 'hex');

function crc16(bytes) {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit += 1) {
      crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
    }
  }
  return crc;
}

function base32(bytes) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  const fives = bits.match(/.{1,5}/g).map((five) => Number.parseInt(five.padEnd(5, '0'), 2));
  return fives.map((five) => ALPHABET[five]).join('');
}

function encode(...parts) {
  const bytes = Buffer.concat(parts.map((part) => Buffer.from(part)));
  const crc = Buffer.alloc(2);
  crc.writeUInt16LE(crc16(bytes));
  return base32(Buffer.concat([bytes, crc]));
}

/** A key of a user: `seed` is the private part, `publicKey` the part that the server knows. */
function createNkey() {
  const raw = crypto.randomBytes(32);
  const der = Buffer.concat([HEAD, raw]);
  const key = crypto.createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
  const spki = crypto.createPublicKey(key).export({ type: 'spki', format: 'der' });
  return {
    // The prefix of a seed consists of its kind and the kind of its owner, with 5 bits each.
    seed: encode([SEED | (USER >> 5), (USER & 31) << 3], raw),
    publicKey: encode([USER], spki.subarray(-32)),
    sign: (nonce) => crypto.sign(null, Buffer.from(nonce), key).toString('base64url'),
  };
}

module.exports = { createNkey };
