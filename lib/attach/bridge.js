'use strict';

// A socket that JavaScript reads and writes for the addon.

/** Time for the peer to read the last bytes of a connection, in milliseconds. */
const LINGER = 5000;

// Captured here, because fake timers of a test framework replace it later.
const { setTimeout } = require('node:timers');
const { PENDING, shield } = require('./shield');

let lastNumber = 0;

class Bridge {
  #socket;
  #bridges;
  #number;
  #native;
  /** Ends the shield against other listeners; undefined once something was sent. */
  #release;

  /** `bridges`: the open bridges by number. */
  constructor(socket, bridges) {
    lastNumber = (lastNumber + 1) % 2 ** 32;
    this.#socket = socket;
    this.#bridges = bridges;
    this.#number = lastNumber;
  }

  /** Creates the addon's end. `upgrade`: the request and its client. */
  start(native, upgrade) {
    const socket = this.#socket;
    this.#native = native.bridge(this.#number, upgrade);
    this.#bridges.set(this.#number, this);
    // Socket.IO ends a socket if nothing was written to it in time.
    this.#release = shield(socket, PENDING);
    socket.setTimeout?.(0);
    socket.setNoDelay?.(true);
    socket.on('data', (bytes) => {
      if (!this.#native.push(bytes)) socket.pause();
    });
    socket.on('end', () => this.#native.end());
    socket.on('close', () => {
      this.#native.lose();
      this.#bridges.delete(this.#number);
    });
    // The program may have paused it.
    socket.resume();
  }

  // Events of the addon.

  /** There are bytes to send, or there will be no more. */
  send() {
    this.#release?.();
    this.#release = undefined;
    for (let bytes = this.#native.take(); bytes !== null; bytes = this.#native.take()) {
      const { length } = bytes;
      if (length === 0) {
        this.#socket.end();
        return;
      }
      this.#socket.write(bytes, () => this.#native.written(length));
    }
  }

  /** The socket may be read again. */
  resume() {
    this.#socket.resume();
  }

  /** The addon does not use the socket any more. */
  close() {
    const socket = this.#socket;
    this.send();
    // Unread bytes would reset the connection before the peer has read the last frames.
    socket.resume();
    socket.end(() => socket.destroy());
    setTimeout(() => socket.destroy(), LINGER).unref();
  }

  /** The server is closed. A peer that has not read its last bytes had `closeTimeout` to do so. */
  destroy() {
    this.send();
    this.#socket.destroy();
  }
}

module.exports = Bridge;
