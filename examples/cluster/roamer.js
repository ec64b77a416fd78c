'use strict';

// A client for clusters without a load balancer: when its connection is lost, it connects to the next broker.

const { EventEmitter } = require('node:events');
const WSMsgBroker = require('wsmsgbroker');

/** Average delay before the next attempt, ms. Randomized, so that not all clients reconnect at once. */
const PAUSE = 200;

/** Emits `home` with the address of the broker where the id was registered. */
class Roamer extends EventEmitter {
  #id;
  #urls;
  #serve;
  #client;
  #isClosed = false;

  /** `serve` is called with each new client before it connects, to add listeners. */
  constructor(id, urls, serve = () => {}) {
    super();
    this.#id = id;
    this.#urls = [...urls];
    this.#serve = serve;
    this.#connect();
  }

  /** The client of the current connection. Messages sent before it is connected are queued. */
  get client() {
    return this.#client;
  }

  /** Connects without `reconnect`, which would use the same address again. */
  #connect() {
    const [url] = this.#urls;
    const client = new WSMsgBroker(this.#id, url, { protocol: 2 });
    // `close` follows.
    client.on('error', () => {});
    client.on('registered', () => this.emit('home', url));
    // Another client registered the id. If both reconnected, they would replace each other forever.
    client.on('replaced', () => this.close());
    client.on('close', () => {
      if (this.#isClosed) return;
      this.#urls.push(this.#urls.shift());
      setTimeout(() => this.#isClosed || this.#connect(), Math.random() * PAUSE + PAUSE / 2);
    });
    this.#client = client;
    this.#serve(client);
  }

  close() {
    this.#isClosed = true;
    return this.#client.close();
  }
}

module.exports = { Roamer };
