'use strict';

// The API of the rivals on socket.io 4: events to the socket of an id, acknowledgements as answers, WebSocket
// from the first packet on, and no compression (its default).

const { EventEmitter } = require('node:events');
const http = require('node:http');
const socketio = require('socket.io');

/** Loaded only where there are clients. */
class Client extends EventEmitter {
  #socket;

  constructor(id, host, port) {
    super();
    this.id = id;
    const { io } = require('socket.io-client');
    this.#socket = io(`ws://${host}:${port}`, {
      transports: ['websocket'],
      forceNew: true, // a connection of its own, as in another process
      reconnection: false,
    });
    this.#socket.on('connect', () => {
      this.#socket.emit('register', id, () => this.emit('registered', id));
    });
    this.#socket.on('message', (message, from, respond) => {
      this.emit('message', message, respond ? { send: respond } : null, from);
    });
    this.#socket.on('connect_error', (error) => this.emit('error', error));
    this.#socket.on('disconnect', (reason) => this.emit('close', reason));
  }

  send(message, dest, callback) {
    if (callback === undefined) this.#socket.emit('send', message, dest);
    else this.#socket.emit('send', message, dest, callback);
  }

  close() {
    this.#socket.disconnect();
  }
}

class Server extends EventEmitter {
  #sockets = new Map(); // by id
  #http = http.createServer();

  constructor({ port, host }) {
    super();
    const server = new socketio.Server(this.#http, {
      transports: ['websocket'],
      serveClient: false,
    });
    server.on('connection', (socket) => this.#accept(socket));
    this.#http.on('listening', () => this.emit('listening'));
    this.#http.on('error', (error) => this.emit('error', error));
    this.#http.listen(port, host);
  }

  address() {
    return this.#http.address();
  }

  #accept(socket) {
    let from;
    socket.on('register', (id, done) => {
      from = id;
      this.#sockets.set(id, socket);
      done();
    });
    socket.on('send', (message, dest, callback) => {
      const receiver = this.#sockets.get(dest);
      if (!receiver) this.emit('warn', new Error(`unknown id ${dest}`));
      else if (!callback) receiver.emit('message', message, from);
      else receiver.emit('message', message, from, (answer) => callback(dest, answer));
    });
    socket.on('disconnect', () => this.#sockets.delete(from));
  }
}

module.exports = { Client, Server };
