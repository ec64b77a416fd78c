'use strict';

// Writes lines to stdout or stderr without ever waiting for their reader: a broker must not depend on its log.

const fs = require('node:fs');
const net = require('node:net');

/** Bytes queued for a slow reader above which lines are dropped. */
const MAX_QUEUED = 1 << 20;

/**
 * A writer of lines to a stream of the process.
 *
 * - A reader that does not read: lines are queued up to `MAX_QUEUED` bytes, and then dropped.
 * - A reader that has gone (EPIPE), or a terminal that has (EIO): all further lines are dropped.
 * - A file on a full disk: lines are dropped until there is space.
 *
 * The first line after dropped ones is `dropNotice(count)`.
 */
class LineWriter {
  #stream;
  #dropNotice;
  #dropped = 0;
  #isBroken = false;
  /** The file that the stream writes to; undefined for a pipe, a socket or a terminal. */
  #file;

  constructor(stream, dropNotice) {
    this.#stream = stream;
    this.#dropNotice = dropNotice;
    stream.on('error', () => {
      this.#isBroken = true;
    });
    if (stream instanceof net.Socket) {
      // Node.js writes to terminals, and on Windows to pipes, synchronously: a write waits for the reader.
      stream._handle?.setBlocking?.(false);
      stream.on('drain', () => this.#reportDropped());
    } else {
      // The stream of a file is destroyed by its first error.
      this.#file = stream.fd;
    }
  }

  /** Bytes that wait for the reader. */
  get queued() {
    return this.#isBroken ? 0 : this.#stream.writableLength;
  }

  write(line) {
    if (this.#dropped > 0 && !this.#reportDropped()) {
      this.#dropped += 1;
    } else if (!this.#put(line)) {
      this.#dropped += 1;
    }
  }

  /** Writes the number of dropped lines. Returns false if it is not possible yet. */
  #reportDropped() {
    if (this.#dropped > 0) {
      if (!this.#put(this.#dropNotice(this.#dropped))) {
        return false;
      }
      this.#dropped = 0;
    }
    return true;
  }

  /** Returns false if the line is not accepted. */
  #put(line) {
    if (this.#file !== undefined) {
      try {
        fs.writeFileSync(this.#file, `${line}\n`);
        return true;
      } catch {
        return false;
      }
    }
    if (this.#isBroken || this.#stream.writableLength > MAX_QUEUED) {
      return false;
    }
    this.#stream.write(`${line}\n`);
    return true;
  }
}

module.exports = LineWriter;
