'use strict';

// The API and protocol of this package on `ws` 8, written carefully: no compression, no tracking of clients,
// one encoding for all receivers. With `cork`, all messages of one tick to a socket are sent in one write.

const { EventEmitter } = require('node:events');
const { WebSocket, WebSocketServer } = require('ws');

const OPTIONS = { perMessageDeflate: false, clientTracking: false };

/** Writes texts to a WebSocket, one by one or, corked, all of a tick at once. */
function writer(socket, tcp, cork) {
  if (!cork) return (text) => socket.send(text);
  const uncork = () => tcp.uncork();
  return (text) => {
    if (tcp.writableCorked === 0) {
      tcp.cork();
      process.nextTick(uncork);
    }
    socket.send(text);
  };
}

/** The classes of both sides. `cork` applies to both. */
function classes(cork) {
  class Client extends EventEmitter {
    #asked = new Map();
    #acks = 0;
    #socket;
    #write;

    constructor(id, host, port) {
      super();
      this.id = id;
      this.#socket = new WebSocket(`ws://${host}:${port}/`, { perMessageDeflate: false });
      this.#socket.on('upgrade', ({ socket }) => {
        this.#write = writer(this.#socket, socket, cork);
      });
      this.#socket.on('open', () => {
        this.#write(JSON.stringify({ action: 'register', id }));
        this.emit('open');
      });
      this.#socket.on('message', (data) => this.#read(JSON.parse(data)));
      this.#socket.on('error', (error) => this.emit('error', error));
      this.#socket.on('close', (code) => this.emit('close', code));
    }

    send(message, dest, callback) {
      if (callback === undefined) {
        return this.#write(JSON.stringify({ action: 'send', message, dest }));
      }
      // Unique among all clients, because the server keeps acks in one table.
      const ack = `${this.id}-${++this.#acks}`;
      this.#asked.set(ack, callback);
      this.#write(JSON.stringify({ action: 'send', message, dest, ack }));
    }

    close() {
      this.#socket.close();
    }

    #read({ action, message, ack, from, id }) {
      if (action === 'message') {
        const respond = (answer) =>
          this.#write(JSON.stringify({ action: 'answer', ack, message: answer }));
        this.emit('message', message, ack === undefined ? null : { send: respond }, from);
      } else if (action === 'answer') {
        const callback = this.#asked.get(ack);
        this.#asked.delete(ack);
        if (callback) callback(from, message);
        else this.emit('error', new Error(`unknown ack ${ack}`));
      } else if (action === 'registered') this.emit('registered', id);
    }
  }

  class Server extends EventEmitter {
    #writers = new Map(); // by id
    #asked = new Map(); // askers by ack
    #server;

    constructor({ port, host }) {
      super();
      this.#server = new WebSocketServer({ port, host, ...OPTIONS });
      this.#server.on('listening', () => this.emit('listening'));
      this.#server.on('error', (error) => this.emit('error', error));
      this.#server.on('connection', (socket, { socket: tcp }) => {
        const peer = { id: undefined, write: writer(socket, tcp, cork) };
        socket.on('message', (data) => this.#read(peer, JSON.parse(data)));
        socket.on('error', (error) => this.emit('error', error));
        socket.on('close', () => this.#writers.delete(peer.id));
      });
    }

    address() {
      return this.#server.address();
    }

    #read(peer, { action, id, message, dest, ack }) {
      if (action === 'send') {
        if (ack !== undefined) this.#asked.set(ack, peer);
        const text = JSON.stringify({ action: 'message', message, ack, from: peer.id });
        for (const name of typeof dest === 'string' ? [dest] : dest) {
          const write = this.#writers.get(name);
          if (write) write(text);
          else this.emit('warn', new Error(`unknown id ${name}`));
        }
      } else if (action === 'answer') {
        const text = JSON.stringify({ action, ack, from: peer.id, message });
        this.#asked.get(ack)?.write(text);
        this.#asked.delete(ack);
      } else if (action === 'register') {
        peer.id = id;
        this.#writers.set(id, peer.write);
        peer.write(JSON.stringify({ action: 'registered', id }));
      }
    }
  }

  return { Client, Server };
}

module.exports = classes;
