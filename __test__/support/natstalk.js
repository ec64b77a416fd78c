'use strict';

// An independent NATS client that speaks the protocol as text over a plain socket. Used to observe messages
// and subscriptions on a NATS server.

const net = require('node:net');
const tls = require('node:tls');

const LATE_MS = 30_000;

/** Parses `Name: value` lines after the first line, which has the version and optionally a status. */
function parseHeaders(text) {
  const [first, ...lines] = text.split('\r\n').filter(Boolean);
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon), line.slice(colon + 1).trim()];
    }),
  );
  return { status: first?.split(' ')[1], headers };
}

function formatHeaders(headers = {}, status = '') {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `NATS/1.0 ${status}`.trim().concat(`\r\n${lines.join('')}\r\n`);
}

function failure(code, message) {
  return Object.assign(new Error(message), { code });
}

class NatsTalk {
  #socket;
  #input = Buffer.alloc(0);
  #pongs = [];
  #waiting = [];
  #read = 0;
  #lastSid = 0;
  #error;
  #close;

  /** The last INFO of the server. */
  info;
  /** All received messages, each with `subject`, `reply`, `status`, `headers`, `payload` and `text`. */
  messages = [];
  /** The last error of the server. */
  complaint;
  /** Resolves when the connection has ended. */
  closed = new Promise((resolve) => {
    this.#close = resolve;
  });

  constructor(port) {
    this.#listen(net.connect({ port, host: '127.0.0.1', noDelay: true }));
  }

  #listen(socket) {
    this.#socket = socket;
    socket.on('error', (error) => {
      this.#error ??= error;
    });
    socket.on('data', (chunk) => {
      this.#input = Buffer.concat([this.#input, chunk]);
      while (this.#parse());
      this.#wake();
    });
    socket.on('close', () => {
      // With TLS there are two sockets, and the inner one stays in use.
      if (socket !== this.#socket) return;
      this.#close();
      this.#wake();
    });
  }

  #wake() {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Resolves when the condition holds. It is checked after each message of the server. */
  async #until(what, isTrue) {
    const deadline = Date.now() + LATE_MS;
    while (!isTrue()) {
      if (this.complaint) throw failure('ERR_TALK_REFUSED', `${what}: ${this.complaint}`);
      if (this.#error) throw this.#error;
      if (this.#socket.destroyed) throw failure('ERR_TALK_CLOSED', what);
      if (Date.now() >= deadline) throw failure('ERR_TALK_LATE', what);
      await new Promise((resolve) => {
        const late = setTimeout(resolve, deadline - Date.now());
        this.#waiting.push(() => {
          clearTimeout(late);
          resolve();
        });
      });
    }
  }

  /** Parses one line and its payload. Returns false if it is incomplete. */
  #parse() {
    const end = this.#input.indexOf('\r\n');
    if (end < 0) return false;
    const line = this.#input.toString('utf8', 0, end);
    const [verb, ...words] = line.split(' ');
    let rest = end + 2;
    if (verb === 'MSG' || verb === 'HMSG') {
      const size = Number(words.at(-1));
      if (this.#input.length < rest + size + 2) return false;
      const body = this.#input.subarray(rest, rest + size);
      rest += size + 2;
      this.#take(words, verb === 'HMSG', body);
    } else if (verb === 'INFO') {
      this.info = JSON.parse(line.slice('INFO '.length));
    } else if (verb === 'PING') {
      this.write('PONG\r\n');
    } else if (verb === 'PONG') {
      this.#pongs.shift()?.();
    } else if (verb === '-ERR') {
      this.complaint = line.slice('-ERR '.length).replaceAll("'", '');
    }
    this.#input = this.#input.subarray(rest);
    return true;
  }

  #take(words, hasHeaders, body) {
    const sizes = hasHeaders ? 2 : 1;
    const [subject, , reply] = words.slice(0, -sizes);
    const size = hasHeaders ? Number(words.at(-2)) : 0;
    const payload = Buffer.from(body.subarray(size));
    const { status, headers } = parseHeaders(body.toString('utf8', 0, size));
    const text = payload.toString();
    this.messages.push({ subject, reply, status, headers, payload, text });
  }

  async connect({ user, pass, token, nkey, tls: secure, ...more }) {
    await this.#until('no greeting', () => this.info);
    if (secure) {
      const socket = tls.connect({ socket: this.#socket, host: '127.0.0.1', ...secure });
      this.#socket.removeAllListeners('data');
      this.#listen(socket);
      let isSecure = false;
      socket.once('secureConnect', () => {
        isSecure = true;
        this.#wake();
      });
      await this.#until('no TLS', () => isSecure);
    }
    const key = nkey && { nkey: nkey.publicKey, sig: nkey.sign(this.info.nonce) };
    const who = { user, pass, auth_token: token, ...key };
    const options = { verbose: false, pedantic: false, headers: true, no_responders: true };
    this.write(`CONNECT ${JSON.stringify({ ...options, protocol: 1, ...who, ...more })}\r\n`);
    await this.flush();
  }

  /** Writes any text or bytes. */
  write(bytes) {
    this.#socket.write(bytes);
  }

  /** Resolves when the server has read everything written so far. */
  async flush() {
    let isDone = false;
    this.#pongs.push(() => {
      isDone = true;
    });
    this.write('PING\r\n');
    await this.#until('no PONG', () => isDone);
  }

  /** Subscribes. Resolves once this server knows the subscription, with the function that ends it. */
  async sub(subject, queue = '') {
    this.#lastSid += 1;
    const sid = this.#lastSid;
    this.write(`SUB ${subject} ${queue} ${sid}\r\n`);
    await this.flush();
    return () => {
      this.write(`UNSUB ${sid}\r\n`);
      return this.flush();
    };
  }

  pub(subject, payload = '', { reply = '', headers, status } = {}) {
    const body = Buffer.from(payload);
    const hasHeaders = headers || status;
    const head = Buffer.from(hasHeaders ? formatHeaders(headers, status) : '');
    const size = head.length + body.length;
    const line = hasHeaders
      ? `HPUB ${subject} ${reply} ${head.length} ${size}`
      : `PUB ${subject} ${reply} ${size}`;
    this.write(Buffer.concat([Buffer.from(`${line}\r\n`), head, body, Buffer.from('\r\n')]));
  }

  /** The next message that no earlier call has returned. */
  async next() {
    await this.#until('no message', () => this.messages.length > this.#read);
    this.#read += 1;
    return this.messages[this.#read - 1];
  }

  async close() {
    this.#socket.destroy();
    await this.closed;
  }
}

/**
 * Connects to a server of nats.js until the test ends. Options for authentication: `user` and `pass`,
 * `token`, `nkey` (see nkey.js). `tls`: options of `tls.connect`. All others are passed to CONNECT.
 */
async function natsTalk(t, server, options = {}) {
  const talk = new NatsTalk(server.port);
  t.teardown(() => talk.close());
  await talk.connect(options);
  return talk;
}

module.exports = { natsTalk };
