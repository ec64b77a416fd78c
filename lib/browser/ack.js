'use strict';

/** Creates an ack: 20 random letters and digits, which other clients cannot guess where there is `crypto`. */
function ack() {
  const bytes = new Uint8Array(20).map(() => Math.random() * 256);
  // React Native has no `crypto`.
  globalThis.crypto?.getRandomValues(bytes);
  return Array.from(bytes, (byte) => (byte % 36).toString(36)).join('');
}

module.exports = ack;
