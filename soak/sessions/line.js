'use strict';

// A breakable connection: a relay between a client and a broker.

const { once } = require('node:events');
const net = require('node:net');

class BreakableLine {
  #server;
  #port;
  /** The sockets to the client and to the broker of each connection. */
  #pairs = new Set();

  static async start(port) {
    const line = new BreakableLine();
    line.#port = port;
    line.#server = net.createServer((near) => line.#relay(near)).listen(0, '127.0.0.1');
    await once(line.#server, 'listening');
    return line;
  }

  get url() {
    return `ws://127.0.0.1:${this.#server.address().port}/`;
  }

  #relay(near) {
    const far = net.connect(this.#port, '127.0.0.1');
    const pair = { near, far, keepsFar: false };
    this.#pairs.add(pair);
    near.setNoDelay().pipe(far, { end: false });
    far.setNoDelay().pipe(near);
    near.on('error', () => {}).on('close', () => pair.keepsFar || far.destroy());
    far
      .on('error', () => {})
      .on('close', () => {
        near.destroy();
        this.#pairs.delete(pair);
      });
  }

  /** Breaks the connection. `keepsFar`: the broker does not learn of it. */
  break(keepsFar) {
    for (const pair of this.#pairs) {
      pair.keepsFar = keepsFar;
      pair.near.destroy();
      if (!keepsFar) pair.far.destroy();
    }
  }

  close() {
    this.break(false);
    this.#server.close();
  }
}

module.exports = BreakableLine;
