'use strict';

// A played server: sockets on which a test can write anything, WebSocket or not.

const { once } = require('node:events');
const net = require('node:net');
const { BINARY, CLOSE, FIN, PING, PONG, TEXT, acceptKey, frame } = require('../../testkit/frames');

/** Longer than any expected step takes, ms. */
const TIMEOUT_MS = 30_000;

/** The value of a promise. Rejects if it does not settle in time. */
async function soon(promise, what) {
  let timer;
  const never = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} in time`)), TIMEOUT_MS);
  });
  try {
    return await Promise.race([promise, never]);
  } finally {
    clearTimeout(timer);
  }
}

/** One socket of a client: its bytes and the frames in them. */
class Wire {
  #socket;
  #bytes;
  #closing = false;

  constructor(socket) {
    this.#socket = socket;
    this.#bytes = socket[Symbol.asyncIterator]();
    this.buffer = Buffer.alloc(0);
    socket.setNoDelay(true);
    // Reading detects the end of the client.
    socket.on('error', () => {});
  }

  /** Reads more bytes. Returns false at the end. */
  async #more() {
    const { done, value } = await this.#bytes.next().catch(() => ({ done: true }));
    if (!done) this.buffer = Buffer.concat([this.buffer, value]);
    return !done;
  }

  async #take(length) {
    while (this.buffer.length < length) {
      if (!(await this.#more())) return null;
    }
    const taken = this.buffer.subarray(0, length);
    this.buffer = this.buffer.subarray(length);
    return taken;
  }

  /** Reads a handshake request. */
  async head() {
    while (!this.buffer.includes('\r\n\r\n')) {
      if (!(await this.#more())) throw new Error('the connection ended before a request');
    }
    const end = this.buffer.indexOf('\r\n\r\n') + 4;
    return (await this.#take(end)).toString();
  }

  /** Completes the handshake. */
  async accept() {
    const [, key] = /^sec-websocket-key: *(\S+)/im.exec(await this.head());
    this.write(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
        `Sec-WebSocket-Accept: ${acceptKey(key)}\r\n\r\n`,
    );
  }

  write(bytes) {
    this.#socket.write(bytes);
  }

  /** Ends the connection once everything is written. */
  end() {
    this.#socket.destroySoon();
  }

  send(first, payload) {
    this.#closing ||= (first & 0x0f) === CLOSE;
    this.write(frame(first, payload));
  }

  text(payload) {
    this.send(FIN | TEXT, payload);
  }

  /** The next frame with opcode and payload, or null at the end. */
  async next() {
    const header = await this.#take(2);
    if (!header) return null;
    let length = header[1] & 0x7f;
    if (length === 126) length = (await this.#take(2)).readUInt16BE();
    const mask = await this.#take(4);
    const payload = length > 0 ? Buffer.from(await this.#take(length)) : Buffer.alloc(0);
    for (let n = 0; n < length; n += 1) payload[n] ^= mask[n % 4];
    if (!(header[0] & FIN) || !(header[1] & 0x80)) throw new Error('a fragment, or unmasked');
    return { opcode: header[0] & 0x0f, payload };
  }

  /** The payload of the next frame, which must have this opcode. */
  async expect(opcode, what) {
    const found = await soon(this.next(), what);
    if (found?.opcode !== opcode) {
      throw new Error(
        `${found ? `${found.opcode} "${found.payload}"` : 'the end'}, and no ${what}`,
      );
    }
    return found.payload;
  }

  async ping(payload) {
    this.send(FIN | PING, payload);
    const pong = await this.expect(PONG, 'pong');
    if (pong.toString() !== payload) throw new Error(`a pong of "${pong}"`);
  }

  /** Sends a text in fragments, with a ping before each fragment but the first. */
  async fragments(pieces) {
    for (const [n, piece] of pieces.entries()) {
      if (n > 0) await this.ping(`between ${n}`);
      this.send((n === 0 ? TEXT : 0) | (n === pieces.length - 1 ? FIN : 0), piece);
    }
  }

  close(code, reason = '') {
    const start = Buffer.from(code === null ? [] : [code >> 8, code & 0xff]);
    this.send(FIN | CLOSE, Buffer.concat([start, Buffer.from(reason)]));
  }

  /** The code of the next close frame, or null. No frame may follow it. */
  async closed() {
    const payload = await this.expect(CLOSE, 'close frame');
    if (!this.#closing) this.send(FIN | CLOSE, payload);
    this.end();
    if ((await soon(this.next(), 'end')) !== null) throw new Error('a frame after the close frame');
    return payload.length === 0 ? null : payload.readUInt16BE();
  }
}

/** The listening socket of a played server. */
class Played {
  #server = net.createServer();
  #sockets = [];

  static async listen() {
    const played = new Played();
    played.#server.on('connection', (socket) => played.#sockets.push(socket));
    played.#server.listen(0, '127.0.0.1');
    await once(played.#server, 'listening');
    return played;
  }

  get port() {
    return this.#server.address().port;
  }

  /** The next connection of a client. */
  async connection() {
    while (this.#sockets.length === 0) {
      await soon(once(this.#server, 'connection'), 'connection');
    }
    const socket = this.#sockets.shift();
    return new Wire(socket);
  }

  close() {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

module.exports = { Played, soon, BINARY, FIN, TEXT };
