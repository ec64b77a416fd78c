'use strict';

/** Creates an ack: 20 random letters and digits, which other clients cannot guess. */
function ack() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(20))];
  return bytes.map((byte) => (byte % 36).toString(36)).join('');
}

module.exports = ack;
