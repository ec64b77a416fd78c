'use strict';

// A client that knows several brokers of one cluster: when its connection is lost, it goes to the next.

const { EventEmitter } = require('node:events');
const WSMsgBroker = require('wsmsgbroker');

/** How long it waits before it goes on, ms: a broker that starts again has all its clients at once. */
const PAUSE = 200;

/** Events: `home`, with the address of the broker where the id is registered now. */
class Roamer extends EventEmitter {
  #id;
  #urls;
  #serve;
  #client;
  #isClosed = false;

  /** `serve` is called with each client, before it connects: to listen for messages, say. */
  constructor(id, urls, serve = () => {}) {
    super();
    this.#id = id;
    this.#urls = [...urls];
    this.#serve = serve;
    this.#connect();
  }

  /** The client of the current connection. What is sent before it is connected waits. */
  get client() {
    return this.#client;
  }

  /** Without `reconnect`: that would come back to the same address. */
  #connect() {
    const [url] = this.#urls;
    const client = new WSMsgBroker(this.#id, url, { protocol: 2 });
    // That it is lost is told by `close`, too.
    client.on('error', () => {});
    client.on('registered', () => this.emit('home', url));
    // Somebody else has the id now: two would take it from each other for ever.
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
