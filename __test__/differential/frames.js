'use strict';

// WebSocket bytes by hand, for what no library would send.

const crypto = require('node:crypto');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';

// A client's upgrade request; `extra` are further header lines.
function request(path = '/', extra = []) {
  return [
    `GET ${path} HTTP/1.1`,
    'Host: 127.0.0.1',
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    `Sec-WebSocket-Key: ${KEY}`,
    ...extra,
    '',
    '',
  ].join('\r\n');
}

// The 101 to a request head.
function acceptance(head) {
  const [, key] = /sec-websocket-key: *(\S+)/i.exec(head);
  const accept = crypto
    .createHash('sha1')
    .update(key + GUID)
    .digest('base64');
  return [
    'HTTP/1.1 101 Switching Protocols',
    'Connection: Upgrade',
    'Upgrade: websocket',
    `Sec-WebSocket-Accept: ${accept}`,
    '',
    '',
  ].join('\r\n');
}

// One frame from its first byte and payload; `claimed` is the length it pretends to have.
function frame(
  first,
  payload = Buffer.alloc(0),
  { masked = false, claimed = payload.length } = {},
) {
  const bit = masked ? 0x80 : 0;
  let head;
  if (claimed < 126) {
    head = Buffer.from([first, bit | claimed]);
  } else if (claimed < 0x10000) {
    head = Buffer.from([first, bit | 126, claimed >> 8, claimed & 0xff]);
  } else {
    head = Buffer.alloc(10);
    head[0] = first;
    head[1] = bit | 127;
    head.writeBigUInt64BE(BigInt(claimed), 2);
  }
  // A mask of zeros masks nothing, which is allowed.
  return Buffer.concat([head, Buffer.alloc(masked ? 4 : 0), payload]);
}

// The code of the masked close frame that `data` begins with.
function maskedCloseCode(data) {
  if (data[0] !== 0x88 || data.length < 8) return undefined;
  const [first, second] = [data[6] ^ data[2], data[7] ^ data[3]];
  return first * 256 + second;
}

module.exports = { maskedCloseCode, request, acceptance, frame };
