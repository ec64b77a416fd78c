'use strict';

// The connection of a client: it collects what is sent, hands it to the addon when the tick ends, and
// turns the addon's events into those of the client.

const { coded, systemError } = require('./errors');
const hub = require('./hub');
const { NativeClient } = require('./native');
const Pending = require('./pending');

/** What holds where these options are not set. */
const { highWaterMark: MARK, maxQueued: MOST } = NativeClient.defaults();
/** Characters collected in one tick that are handed over before it ends. */
const COLLECT = 64 * 1024;
/** Characters after which requests and answers, for which somebody waits, do not wait for the rest of the tick. */
const AHEAD = 4 * 1024;

/** What an ack is as the name of a property, which it was in version 1; a peer may send any JSON. */
function propertyName(value) {
  try {
    return String(value);
  } catch {
    return JSON.stringify(value);
  }
}

class Connection {
  #client;
  #target;
  #native = null;
  #number;
  /** Lines for the addon, collected until the tick ends. */
  #lines = '';
  /** Some of what this tick sends has been handed over. */
  #ahead = false;
  /** Bytes that waited when we last asked. */
  #waiting = 0;
  #needsDrain = false;
  #opened = false;
  #closing = false;
  /** As in version 1, the end of some connections is not told. */
  #silent = false;
  #ended;
  #resolveEnded;
  /** The callbacks that await an answer. */
  pending = new Pending();

  constructor(client, target) {
    this.#client = client;
    this.#target = target;
    this.#ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    this.#number = hub.open(this);
    // Nothing is emitted, and nothing opened, before the current tick ends.
    process.nextTick(() => this.#connect());
  }

  #connect() {
    if (this.#closing) {
      this.#end();
      this.#client.emit('close', undefined);
      return;
    }
    const { host, port, path, options } = this.#target;
    if (!Number.isInteger(port) || port < 0 || port > 65_535) {
      this.#end();
      this.#fail(
        coded('ERR_SOCKET_BAD_PORT', `Port should be >= 0 and < 65536. Received ${port}.`),
      );
      return;
    }
    try {
      const id = JSON.stringify(this.#client.id);
      this.#native = new NativeClient(hub.hub, this.#number, { id, host, port, path, ...options });
    } catch (error) {
      // An id that JSON cannot write, or no threads.
      this.#end();
      this.#fail(error);
      return;
    }
    this.flush();
  }

  /** A failure before there is a connection: error, then close, as any other. */
  #fail(error) {
    try {
      this.#client.emit('error', error);
    } finally {
      this.#client.emit('close', 1006);
    }
  }

  assertOpen() {
    if (this.#closing) {
      throw coded('ERR_WSMB_NOT_OPEN', 'not opened');
    }
  }

  get bufferedAmount() {
    return (this.#native ? this.#native.waiting() : 0) + this.#lines.length;
  }

  /** Collects a line; `awaited`: somebody waits for what it brings. False above the high-water mark. */
  push(line, awaited = false) {
    const { highWaterMark = MARK, maxQueued = MOST } = this.#target.options;
    let waiting = this.#waiting + this.#lines.length + line.length;
    if (waiting > maxQueued) {
      // Some of it may have been written since we last asked.
      waiting = this.bufferedAmount + line.length;
    }
    if (waiting > maxQueued) {
      const message = `${waiting} bytes wait to be sent, maxQueued is ${maxQueued}`;
      throw coded('ERR_WSMB_MAX_QUEUED', message);
    }
    if (line.length > COLLECT) {
      // Large ones cross alone: joining them would only copy them once more.
      this.#handCollected();
      this.#hand(line);
    } else {
      this.#lines += line;
      hub.collect(this);
      // Once in a tick: others are at work on it while this tick goes on.
      const ahead = awaited && !this.#ahead && this.#lines.length > AHEAD;
      if (ahead || this.#lines.length > COLLECT) {
        this.#ahead = true;
        this.#handCollected();
      }
    }
    const below = this.#waiting + this.#lines.length < highWaterMark;
    this.#needsDrain ||= !below;
    return below;
  }

  /** Hands over what was collected: the tick has ended. */
  flush() {
    this.#ahead = false;
    this.#handCollected();
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
      this.#lines += lines;
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
    if (this.#needsDrain) {
      if (this.#waiting > 0) {
        this.#native.wantDrain();
      } else {
        process.nextTick(() => this.#drain());
      }
    }
  }

  /** All has been written; what was collected meanwhile asks again when it is handed over. */
  #drain() {
    if (this.#needsDrain && this.#lines === '' && this.#waiting === 0) {
      this.#needsDrain = false;
      this.#client.emit('drain');
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
    return this.#ended;
  }

  #end() {
    this.#closing = true;
    hub.close(this.#number);
    this.#resolveEnded();
  }

  /** One event of the addon; the kinds are listed in src/node/client.rs. */
  receive(event) {
    const client = this.#client;
    switch (event[0]) {
      case 0:
        this.#opened = true;
        client.emit('open');
        break;
      case 1:
        client.emit('registered');
        break;
      case 2:
        client.emit('unregistered', event[1]);
        break;
      case 3:
        client.emit('message', event[3], this.#response(event[1]), event[2] ?? undefined);
        break;
      case 4:
        this.#answered(event);
        break;
      case 5:
        client.emit('error', coded(event[1], event[2]));
        break;
      case 6:
        this.#failed(event);
        break;
      case 7:
        this.#waiting = 0;
        this.#drain();
        break;
      case 8:
        this.#end();
        if (!this.#silent) {
          client.emit('close', event[1]);
        }
        break;
    }
  }

  #response(key) {
    if (key === null) {
      return null;
    }
    return {
      send: (answer) => {
        const text = JSON.stringify(answer) ?? '';
        this.assertOpen();
        this.push(`a${JSON.stringify(key)}\t${text}\n`, true);
      },
    };
  }

  #answered(event) {
    const [, key, from, answer] = event;
    const name = propertyName(key);
    const callback = this.pending.take(name);
    if (typeof callback !== 'function') {
      const message = `Unable to find callback method for ${this.#client.id} and ack = ${name}`;
      this.#client.emit('error', coded('ERR_WSMB_UNKNOWN_ACK', message));
      return;
    }
    if (event.length < 4) {
      const message = 'Unable to parse "answer" message (msg.from or msg.message are undefined)';
      this.#client.emit('error', coded('ERR_WSMB_ANSWER', message));
      return;
    }
    callback(from, answer);
  }

  #failed([, code, message, syscall, target]) {
    if (code === 'ERR_WSMB_SERVER_KEY') {
      // No WebSocket server at all: a text, and no close event.
      this.#silent = true;
      this.#client.emit('error', message);
      return;
    }
    // It was closed before it was open, and would not have opened.
    this.#silent = this.#closing && !this.#opened;
    let error = coded(code, message);
    if (syscall) {
      const [, address, port] = /^(.*):(\d+)$/.exec(target) ?? [null, target];
      error = systemError(code, syscall, address.replace(/^\[|\]$/g, ''), port && Number(port));
    }
    this.#client.emit('error', error);
  }
}

module.exports = Connection;
