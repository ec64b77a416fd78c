'use strict';

// WebSocket frames as bytes (RFC 6455), valid or not, and the answer to the key of a handshake.

const crypto = require('node:crypto');

const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;
/** In the first byte of a frame: the last one of its message. */
const FIN = 0x80;
/** In the second byte of a frame: a mask follows. */
const MASKED = 0x80;
/** A mask that changes no byte. */
const ZERO_MASK = Buffer.alloc(4);

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

/** The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`. */
function acceptKey(key) {
  return crypto.createHash('sha1').update(`${key}${GUID}`).digest('base64');
}

/**
 * A frame with this first byte. Clients send frames with a `mask` of four bytes. `claimed` is the length in
 * its header, by default that of the payload.
 */
function frame(first, payload = '', { mask, claimed } = {}) {
  const data = Buffer.from(payload);
  const length = claimed ?? data.length;
  const head = Buffer.alloc(10);
  let end = 2;
  head[0] = first;
  if (length < 126) {
    head[1] = length;
  } else if (length < 65_536) {
    head[1] = 126;
    end = head.writeUInt16BE(length, 2);
  } else {
    head[1] = 127;
    end = head.writeBigUInt64BE(BigInt(length), 2);
  }
  if (!mask) return Buffer.concat([head.subarray(0, end), data]);
  head[1] |= MASKED;
  if (mask !== ZERO_MASK) {
    for (let n = 0; n < data.length; n += 1) data[n] ^= mask[n & 3];
  }
  return Buffer.concat([head.subarray(0, end), mask, data]);
}

module.exports = { BINARY, CLOSE, FIN, PING, PONG, TEXT, ZERO_MASK, acceptKey, frame };
