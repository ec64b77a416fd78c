'use strict';

// One connection of a client, by the addon: it collects what is sent, hands it over when the tick ends, and
// tells the session what the addon has to tell.

const Response = require('./client/response');
const { coded, systemError } = require('./errors');
const hub = require('./hub');
const { NativeClient } = require('./native');

/** Characters collected in one tick that are handed over before it ends. */
const COLLECT = 64 * 1024;
/** Characters after which requests and answers, for which somebody waits, do not wait for the rest of the tick. */
const AHEAD = 4 * 1024;

/** What ends a frame: no JSON has it as it is, but an ack of others may have line ends. */
const END = '\x1e';

const incomplete = () =>
  coded(
    'ERR_WSMB_ANSWER',
    'Unable to parse "answer" message (msg.from or msg.message are undefined)',
  );

let hasWarned = false;

/** Once in a process, and without a word of the peer's: it may be meant for whoever reads it. */
function warn() {
  if (!hasWarned) {
    hasWarned = true;
    const message = "an error that a peer has caused was dropped: a client has no 'error' listener";
    process.emitWarning(message, { code: 'WSMB_PEER_ERROR' });
  }
}

function unknownAck(id, key) {
  const message = `Unable to find callback method for ${id} and ack = ${key}`;
  return coded('ERR_WSMB_UNKNOWN_ACK', message);
}

const tooLarge = (what, size) =>
  coded('ERR_WSMB_MAX_PAYLOAD', `${what} of ${size} bytes is too large, and was dropped`);

/** The ack of a message as JSON text, and as a name. */
function readAck(ack) {
  return Array.isArray(ack) ? ack : [`"${ack}"`, ack];
}

/** That of a message to which no answer is wanted. */
const NO_ACK = [undefined, undefined];

class Transport {
  /** It takes frames before it is open. */
  isEager = true;
  #session;
  #target;
  #token;
  #native = null;
  #number;
  /** Frames for the addon, each with `END` behind it, collected until the tick ends. */
  #lines = '';
  /** Some of what this tick sends has been handed over. */
  #ahead = false;
  /** Bytes that waited when we last asked. */
  #waiting = 0;
  #held = false;
  #opened = false;
  #closing = false;
  /** As in version 1, the end of some connections is not told. */
  #silent = false;

  /** `target`: host, port, path and options. */
  constructor(session, target, token) {
    this.#session = session;
    this.#target = target;
    this.#token = token;
    this.#number = hub.open(this);
    session.unheard = warn;
    session.stray = (key) => session.misunderstood(unknownAck(session.client.id, key));
    // Nothing is emitted, and nothing opened, before the current tick ends.
    process.nextTick(() => this.#connect());
  }

  #connect() {
    if (this.#closing) {
      hub.close(this.#number);
      this.#session.closed(undefined);
      return;
    }
    const { host, port, path, native, join } = this.#target;
    if (!join && (!Number.isInteger(port) || port < 0 || port > 65_535)) {
      const message = `Port should be >= 0 and < 65536. Received ${port}.`;
      this.#fail(coded('ERR_SOCKET_BAD_PORT', message));
      return;
    }
    try {
      const id = this.#session.idText();
      const address = join ? { host: '', port: 0, path: '/' } : { host, port, path };
      const options = { ...native, ...address, id, token: this.#token };
      this.#native = join
        ? join(this.#number, options)
        : new NativeClient(hub.hub, this.#number, options);
    } catch (error) {
      if (join && error.code === 'ERR_WSMB_NOT_OPEN') {
        // The server is closed: its own client was never there.
        hub.close(this.#number);
        this.#session.closed(undefined);
        return;
      }
      // An id that JSON cannot write, or no threads.
      this.#fail(error);
      return;
    }
    this.flush();
  }

  /** A failure before there is a connection: to try once more would not help. */
  #fail(error) {
    hub.close(this.#number);
    try {
      this.#session.broke(error);
    } finally {
      this.#session.closed(1006, false, true);
    }
  }

  get bufferedAmount() {
    return (this.#native ? this.#native.waiting() : 0) + this.#lines.length;
  }

  /** The same, as far as is known without asking. */
  get waiting() {
    return this.#waiting + this.#lines.length;
  }

  /** Collects a frame; `isAwaited`: somebody waits for what it brings. */
  push(frame, isAwaited) {
    if (frame.length > COLLECT) {
      // Large ones cross alone: joining them would only copy them once more.
      this.#handCollected();
      this.#hand(frame);
      return;
    }
    this.#lines += frame + END;
    hub.collect(this);
    // Once in a tick: others are at work on it while this tick goes on.
    const isAhead = isAwaited && !this.#ahead && this.#lines.length > AHEAD;
    if (isAhead || this.#lines.length > COLLECT) {
      this.#ahead = true;
      this.#handCollected();
    }
  }

  /** Tells when all has been written: asked for when the tick ends. */
  wantDrain() {
    hub.collect(this);
  }

  /** Hands over what was collected: the tick has ended. */
  flush() {
    this.#ahead = false;
    this.#handCollected();
    this.#awaitDrain();
  }

  #awaitDrain() {
    if (this.#session.needsDrain) {
      if (this.#waiting > 0) {
        this.#native?.wantDrain();
      } else {
        process.nextTick(() => this.#drain());
      }
    }
  }

  #handCollected() {
    if (this.#native !== null && this.#lines !== '') {
      const lines = this.#lines;
      this.#lines = '';
      this.#hand(lines);
    }
  }

  #hand(lines) {
    if (this.#native === null) {
      this.#lines += lines + END;
      return;
    }
    try {
      this.#waiting = this.#native.send(lines);
    } catch (error) {
      // The connection has ended; its close event is on the way.
      if (error.code !== 'ERR_WSMB_NOT_OPEN') {
        throw error;
      }
    }
  }

  /** All has been written; what was collected meanwhile asks again when it is handed over. */
  #drain() {
    if (this.#lines === '' && this.#waiting === 0) {
      this.#session.drained();
    }
  }

  /** Reads no further while the program has enough. */
  hold(isHeld) {
    if (isHeld !== this.#held && this.#native !== null) {
      this.#held = isHeld;
      this.#native.hold(isHeld);
    }
  }

  /** At the exit of the process. */
  linger() {
    this.#native?.linger();
  }

  close() {
    if (!this.#closing) {
      this.flush();
      this.#closing = true;
      this.#native?.close();
    }
  }

  /** One event of the addon; the kinds are listed in src/node/client.rs. */
  receive(event) {
    const session = this.#session;
    switch (event[0]) {
      case 0:
        this.#opened = true;
        session.opened();
        break;
      case 1:
        session.hear({ action: 'registered', protocol: event[1] });
        // Whoever has waited for it may want the messages that follow.
        hub.rest();
        break;
      case 2:
        session.hear({ action: 'unregistered', id: event[1], code: event[2] });
        break;
      case 3:
        this.#message(event);
        break;
      case 4:
        this.#answered(event);
        break;
      case 5:
        session.misunderstood(coded(event[1], event[2]));
        break;
      case 6:
        this.#failed(event);
        break;
      case 7:
        // That was some time ago: more may wait by now.
        this.#waiting = this.#native.waiting();
        this.#awaitDrain();
        break;
      case 8:
        this.#closing = true;
        hub.close(this.#number);
        session.closed(event[1], this.#silent);
        break;
      case 9:
        session.hear({
          action: 'receipt',
          ref: event[1],
          delivered: event[2],
          failed: event[3],
        });
        break;
      case 10:
        session.hear({ action: 'failed', ack: event[1], dest: event[2], code: event[3] });
        break;
      case 11: {
        const [, code, message, ref, ack] = event;
        session.hear({ action: 'error', code, message, ref, ack });
        break;
      }
      case 12:
        session.hear({ action: 'cancel', ack: event[1] });
        break;
      case 13:
        session.hear({ action: 'goaway', within: event[1] });
        break;
      case 14:
        this.#messageTooLarge(event);
        break;
      case 15: {
        const [, ack, from, size] = event;
        const error = tooLarge('an answer', size);
        session.hear({ action: 'answer', ack, from: from ?? undefined, error });
        break;
      }
    }
  }

  /** As `hear` does it, without a table: there are many of them. */
  #message([, ack, from, message]) {
    const session = this.#session;
    const [text, name] = ack === null ? NO_ACK : readAck(ack);
    if (typeof from === 'string') {
      session.message(from, message, text, name, hub.size());
    } else {
      const size = hub.size();
      session.hear({ action: 'message', from: from ?? undefined, message, text, ack: name, size });
    }
  }

  /** It was dropped. Who awaits an answer is told. */
  #messageTooLarge([, ack, , size]) {
    const error = tooLarge('a message', size);
    if (ack !== null && this.#session.speaks2) {
      try {
        new Response(this.#session, ...readAck(ack)).reject(error);
      } catch {
        // It is closing, or too much waits already.
      }
    }
    this.#session.misunderstood(error);
  }

  /** What was handed over for this client cannot be parsed. */
  unreadable({ message }) {
    this.#session.misunderstood(coded('ERR_WSMB_JSON', message));
  }

  #answered(event) {
    const session = this.#session;
    const [, ack, from, message, error] = event;
    // In version 1 an answer needs both.
    const isWhole = event.length > 3 && from !== null;
    if (!isWhole && session.requests.get(ack)?.deadline) {
      session.requests.delete(ack);
      session.pace();
      session.misunderstood(incomplete());
    } else if (typeof from === 'string') {
      session.answer(ack, from, message, error);
    } else {
      session.hear({ action: 'answer', ack, from: from ?? undefined, message, error });
    }
  }

  #failed([, code, message, syscall, target]) {
    if (code === 'ERR_WSMB_SERVER_KEY' && this.#session.options.protocol === 1) {
      // No WebSocket server at all: in version 1 a text, and no close event.
      this.#silent = true;
      this.#session.broke(message);
      return;
    }
    // It was closed before it was open, and would not have opened.
    this.#silent = this.#closing && !this.#opened;
    let error = coded(code, message);
    if (syscall) {
      const [, address, port] = /^(.*):(\d+)$/.exec(target) ?? [null, target];
      error = systemError(code, syscall, address.replace(/^\[|\]$/g, ''), port && Number(port));
    }
    this.#session.broke(error);
  }
}

module.exports = Transport;
