'use strict';

// A WebSocket over a socket of Node.js, with or without TLS, for behaviour that clients of a library do not
// have: frames of any shape, bytes at any pace, pauses in reading, silence, an end without a close frame. It
// checks what it reads: any frame that the broker must not write is an error.

const crypto = require('node:crypto');
const { EventEmitter } = require('node:events');
const net = require('node:net');
const tls = require('node:tls');
const kit = require('../testkit/frames');
const { DEADLINE } = require('./limits');

const KEY = crypto.randomBytes(16).toString('base64');
const ACCEPT = kit.acceptKey(KEY);
const { CLOSE, FIN, PING, PONG, TEXT } = kit;

/** The head of a WebSocket request. `fields`: additional header lines. */
function request({ method = 'GET', path = '/', version = 13, fields = '' } = {}) {
  return (
    `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
    `Sec-WebSocket-Version: ${version}\r\nSec-WebSocket-Key: ${KEY}\r\n${fields}\r\n`
  );
}

/** The bytes of a frame, valid or not. `length`: the length in its header. */
function frame(opcode, payload, { fin = true, rsv = 0, masked = true, length } = {}) {
  const first = (fin ? FIN : 0) | (rsv << 4) | opcode;
  const mask = masked ? crypto.randomBytes(4) : undefined;
  return kit.frame(first, payload, { mask, claimed: length });
}

const text = (action) => frame(TEXT, JSON.stringify(action));

/**
 * Emits `action` (an object), `ping`, `pong` (its text) and, once, `end` with the code of the close frame, or
 * 1006.
 */
class Wire extends EventEmitter {
  #received = [];
  #length = 0;
  /** Bytes needed before the next frame can be parsed. */
  #needed = 0;
  #code = 1006;
  #pings = 0;
  #closing = false;
  #head = null;
  #answered;
  #over = false;

  /** `ca`: the trusted authority, if the server speaks TLS. */
  constructor({ port, ca }) {
    super();
    this.setMaxListeners(0);
    /** The socket below TLS, or the socket itself. */
    this.raw = net.connect({ port, host: '127.0.0.1', noDelay: true });
    this.raw.on('error', () => {});
    this.socket = ca ? tls.connect({ socket: this.raw, ca, servername: 'localhost' }) : this.raw;
    /** True if it answers no pings. */
    this.silent = false;
    this.socket.on('data', (chunk) => this.#receive(chunk));
    // `end` reports the end, including a reset.
    this.socket.on('error', () => {});
    /** The status of the response to the request, or 0 without one. */
    this.status = new Promise((resolve) => {
      this.#answered = resolve;
    });
    /** The code with which the connection ended. */
    this.ended = new Promise((resolve) => {
      this.socket.once('close', () => {
        this.#over = true;
        this.#answered(0);
        this.emit('end', this.#code);
        resolve(this.#code);
      });
    });
  }

  write(bytes) {
    this.socket.write(bytes);
  }

  /** Writes an action. */
  send(action) {
    this.socket.write(text(action));
  }

  /** Resolves with the next event for which `wanted` returns true. */
  next(event, wanted = () => true, millis = DEADLINE) {
    return new Promise((resolve, reject) => {
      const settle = (how, value) => {
        clearTimeout(timer);
        this.off(event, hear);
        this.off('end', end);
        how(value);
      };
      const hear = (value) => {
        if (wanted(value)) settle(resolve, value);
      };
      const end = (code) => settle(reject, new Error(`no ${event}, but the end with ${code}`));
      const timer = setTimeout(() => {
        settle(reject, new Error(`no ${event} within ${millis} ms`));
      }, millis);
      this.on(event, hear);
      this.on('end', end);
      if (this.#over) end(this.#code);
    });
  }

  /** Resolves with the next action of this name. */
  action(name) {
    return this.next('action', ({ action }) => action === name);
  }

  /** Resolves when all that the broker has sent before the pong has arrived. */
  async ping() {
    this.#pings += 1;
    const payload = `ping ${this.#pings}`;
    this.write(frame(PING, payload));
    await this.next('pong', (pong) => pong === payload);
  }

  /** Sends a close frame. Resolves with the code of the end. */
  close(code = 1000) {
    if (!this.#closing && this.socket.writable) {
      this.#closing = true;
      this.write(frame(CLOSE, [code >> 8, code & 0xff]));
    }
    return this.ended;
  }

  /** Destroys the connection without a close frame, optionally with a reset. */
  destroy(reset = false) {
    // Only the socket below TLS can be reset.
    if (reset) this.raw.resetAndDestroy();
    else this.socket.destroy();
    return this.ended;
  }

  #receive(chunk) {
    this.#received.push(chunk);
    this.#length += chunk.length;
    if (this.#length < this.#needed) return;
    const bytes = this.#received.length === 1 ? chunk : Buffer.concat(this.#received);
    let offset = this.#head === null ? this.#answer(bytes) : 0;
    this.#needed = bytes.length + 1;
    while (this.#head === 101 && offset < bytes.length) {
      const found = parse(bytes, offset);
      if (found.end > bytes.length) {
        this.#needed = found.end - offset;
        break;
      }
      offset = found.end;
      this.#take(found);
    }
    const rest = bytes.subarray(this.#head === 101 || this.#head === null ? offset : bytes.length);
    this.#received = rest.length > 0 ? [rest] : [];
    this.#length = rest.length;
    if (rest.length === 0) this.#needed = 0;
  }

  /** Reads the response to the request. Returns its end. */
  #answer(bytes) {
    const end = bytes.indexOf('\r\n\r\n');
    if (end < 0) return 0;
    const head = bytes.toString('latin1', 0, end);
    this.#head = Number(head.split(' ', 2)[1]);
    if (this.#head === 101 && !head.includes(ACCEPT)) {
      throw new Error(`the answer has no valid key: ${head}`);
    }
    this.#answered(this.#head);
    return end + 4;
  }

  #take({ opcode, payload }) {
    switch (opcode) {
      case TEXT:
        this.emit('action', JSON.parse(payload));
        break;
      case PING:
        this.emit('ping');
        if (!this.silent) this.write(frame(PONG, payload));
        break;
      case PONG:
        this.emit('pong', payload.toString());
        break;
      case CLOSE:
        this.#code = payload.length < 2 ? 1005 : payload.readUInt16BE();
        if (!this.#closing && this.socket.writable)
          this.write(frame(CLOSE, payload.subarray(0, 2)));
        this.#closing = true;
        this.socket.end();
        break;
      default:
        throw new Error(`a frame with opcode ${opcode}`);
    }
  }
}

/** The frame at an offset, or `{ end }`, the bytes it needs at least. */
function parse(bytes, offset) {
  if (bytes.length < offset + 2) return { end: offset + 2 };
  const [first, second] = [bytes[offset], bytes[offset + 1]];
  if ((first & 0xf0) !== 0x80 || (second & 0x80) !== 0) {
    throw new Error(`a frame that begins with ${bytes.toString('hex', offset, offset + 2)}`);
  }
  const start = offset + ({ 126: 4, 127: 10 }[second] ?? 2);
  if (bytes.length < start) return { end: start };
  let length = second;
  if (second === 126) length = bytes.readUInt16BE(offset + 2);
  if (second === 127) length = Number(bytes.readBigUInt64BE(offset + 2));
  const end = start + length;
  return { end, opcode: first & 0x0f, payload: bytes.subarray(start, end) };
}

module.exports = { Wire, request, frame, text, TEXT, CLOSE, PING };
