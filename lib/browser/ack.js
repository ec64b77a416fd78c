'use strict';

/** An ack: 20 letters and digits that nobody can guess. */
function ack() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(20))];
  return bytes.map((byte) => (byte % 36).toString(36)).join('');
}

module.exports = ack;
