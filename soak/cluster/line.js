'use strict';

// TCP relays that can be cut: from a broker to NATS, and from clients to any running broker.

const { once } = require('node:events');
const net = require('node:net');

/** Forwards each connection to the port that `to()` returns, or refuses it if there is none. */
class Line {
  #server;
  #pairs = new Set();
  isCut = false;

  constructor(to) {
    this.#server = net.createServer((near) => {
      const port = this.isCut ? undefined : to();
      if (port === undefined) {
        near.destroy();
        return;
      }
      const far = net.connect(port, '127.0.0.1');
      const pair = { near, far };
      this.#pairs.add(pair);
      near.pipe(far);
      far.pipe(near);
      for (const socket of [near, far]) {
        socket.setNoDelay();
        socket.on('error', () => {});
        socket.on('close', () => {
          this.#pairs.delete(pair);
          near.destroy();
          far.destroy();
        });
      }
    });
  }

  async open() {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    this.port = this.#server.address().port;
    return this;
  }

  /** Cuts all open connections. With `stays`, refuses new ones until it is mended. */
  cut(stays = false) {
    this.isCut = stays;
    for (const { near, far } of this.#pairs) {
      near.destroy();
      far.destroy();
    }
  }

  mend() {
    this.isCut = false;
  }

  /** Forwards nothing until it thaws, without closing connections. */
  freeze() {
    for (const { near, far } of this.#pairs) {
      near.pause();
      far.pause();
    }
  }

  thaw() {
    for (const { near, far } of this.#pairs) {
      near.resume();
      far.resume();
    }
  }

  close() {
    this.cut(true);
    this.#server.close();
  }
}

module.exports = Line;
