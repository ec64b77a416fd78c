'use strict';

/** The head of a valid upgrade request, with further header lines. */
const upgrade = (target, ...lines) =>
  [
    `GET ${target} HTTP/1.1`,
    'Host: localhost',
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    ...lines,
    '\r\n',
  ].join('\r\n');

/** A masked frame with this JSON. */
function frame(value) {
  const text = Buffer.from(JSON.stringify(value));
  const size = Buffer.alloc(text.length < 126 ? 2 : 4);
  size[0] = 0x81;
  size[1] = 0x80 | Math.min(text.length, 126);
  if (size.length === 4) size.writeUInt16BE(text.length, 2);
  return Buffer.concat([size, Buffer.alloc(4), text]);
}

module.exports = { upgrade, frame };
