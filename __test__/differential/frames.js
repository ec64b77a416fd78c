'use strict';

// Handwritten WebSocket bytes that no library would send.

const kit = require('../../testkit/frames');

const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';

// The upgrade request of a client. `extra`: further header lines.
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

// The 101 response to a request head.
function acceptance(head) {
  const [, key] = /sec-websocket-key: *(\S+)/i.exec(head);
  return [
    'HTTP/1.1 101 Switching Protocols',
    'Connection: Upgrade',
    'Upgrade: websocket',
    `Sec-WebSocket-Accept: ${kit.acceptKey(key)}`,
    '',
    '',
  ].join('\r\n');
}

// One frame from its first byte and payload. `claimed`: the length in its header.
function frame(first, payload, { masked = false, claimed } = {}) {
  return kit.frame(first, payload, { mask: masked ? kit.ZERO_MASK : undefined, claimed });
}

// The code of the masked close frame at the start of `data`.
function maskedCloseCode(data) {
  if (data[0] !== 0x88 || data.length < 8) return undefined;
  const [first, second] = [data[6] ^ data[2], data[7] ^ data[3]];
  return first * 256 + second;
}

module.exports = { maskedCloseCode, request, acceptance, frame };
