'use strict';

// Certificates for tests: an authority of our own, and what it signs. Node.js reads certificates but
// makes none, so this writes the little DER (X.690) that they are made of.

const crypto = require('node:crypto');

const DAY = 86_400_000;

const SEQUENCE = 0x30;
const SET = 0x31;
const ECDSA_WITH_SHA256 = '1.2.840.10045.4.3.2';
const COMMON_NAME = '2.5.4.3';
const BASIC_CONSTRAINTS = '2.5.29.19';
const SUBJECT_ALT_NAME = '2.5.29.17';

/** One element: its tag, its length, and what is in it. */
function element(tag, ...parts) {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)));
  if (body.length < 0x80) {
    return Buffer.concat([Buffer.from([tag, body.length]), body]);
  }
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  const digits = length.subarray(length.findIndex((byte) => byte > 0));
  return Buffer.concat([Buffer.from([tag, 0x80 | digits.length]), digits, body]);
}

function identifier(text) {
  const [first, second, ...rest] = text.split('.').map(Number);
  const bytes = rest.flatMap((number) => {
    const sevens = [number & 0x7f];
    for (let left = number >> 7; left > 0; left >>= 7) {
      sevens.unshift((left & 0x7f) | 0x80);
    }
    return sevens;
  });
  return element(6, [first * 40 + second, ...bytes]);
}

function nameOf(text) {
  const name = element(SEQUENCE, identifier(COMMON_NAME), element(0x0c, Buffer.from(text)));
  return element(SEQUENCE, element(SET, name));
}

/** A GeneralizedTime. */
function time(millis) {
  const digits = new Date(millis).toISOString().replace(/[-:T]|\..*$/g, '');
  return element(0x18, Buffer.from(`${digits}Z`));
}

function extension(name, critical, value) {
  const flag = critical ? element(1, [0xff]) : Buffer.alloc(0);
  return element(SEQUENCE, identifier(name), flag, element(4, value));
}

const AUTHORITY = extension(BASIC_CONSTRAINTS, true, element(SEQUENCE, element(1, [0xff])));

/** For localhost and 127.0.0.1. */
const HOST = extension(
  SUBJECT_ALT_NAME,
  false,
  element(SEQUENCE, element(0x82, Buffer.from('localhost')), element(0x87, [127, 0, 0, 1])),
);

function certify(subject, issuer, signer, publicKey, extensions, from, to) {
  const algorithm = element(SEQUENCE, identifier(ECDSA_WITH_SHA256));
  const serial = crypto.randomBytes(8);
  // Positive, and with no zero that could be left out.
  serial[0] = (serial[0] & 0x7f) | 0x40;
  const content = element(
    SEQUENCE,
    element(0xa0, element(2, [2])),
    element(2, serial),
    algorithm,
    nameOf(issuer),
    element(SEQUENCE, time(from), time(to)),
    nameOf(subject),
    publicKey.export({ type: 'spki', format: 'der' }),
    element(0xa3, element(SEQUENCE, extensions)),
  );
  const signature = element(3, [0], crypto.sign('sha256', content, signer));
  const base64 = element(SEQUENCE, content, algorithm, signature).toString('base64');
  const lines = base64.match(/.{1,64}/g).join('\n');
  return `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`;
}

/**
 * An authority: `ca` is its own certificate, with `key`, `issue` makes a certificate and its key, all in PEM; they
 * are good for as long as it `lasts`, in milliseconds.
 */
function authority(name = 'ca', { lasts = DAY } = {}) {
  const keys = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const sign = (subject, publicKey, extensions, from, to) =>
    certify(subject, name, keys.privateKey, publicKey, extensions, from, to);
  const now = Date.now();
  return {
    ca: sign(name, keys.publicKey, AUTHORITY, now - DAY, now + lasts),
    key: keys.privateKey.export({ type: 'pkcs8', format: 'pem' }),
    issue({ from = now - DAY, to = now + lasts } = {}) {
      const own = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
      return {
        cert: sign('localhost', own.publicKey, HOST, from, to),
        key: own.privateKey.export({ type: 'pkcs8', format: 'pem' }),
      };
    },
  };
}

module.exports = { authority, DAY };
