'use strict';

// The protocol of this package on `ws` 8, optimized: no compression, no tracking, one encoding for all
// receivers, and one write per receiver for all messages of one read.

const { WebSocketServer } = require('ws');
const { announce } = require('./stdio');

const ACK_TTL = 60 * 60 * 1000;
const clients = new Map(); // id -> Client
const asked = new Map(); // ack -> { client, since }, oldest first

class Client {
  constructor(socket, tcp) {
    this.id = undefined;
    this.socket = socket;
    this.tcp = tcp;
    this.uncork = () => tcp.uncork();
  }

  write(text) {
    if (this.tcp.writableCorked === 0) {
      this.tcp.cork();
      process.nextTick(this.uncork);
    }
    this.socket.send(text);
  }

  register({ id }) {
    if (typeof id !== 'string' || id === '') return;
    this.leave();
    this.id = id;
    clients.set(id, this);
    this.write(JSON.stringify({ action: 'registered', id }));
  }

  unregister() {
    const { id } = this;
    if (this.leave()) this.write(JSON.stringify({ action: 'unregistered', id }));
  }

  send({ message, dest, ack }) {
    if (message === undefined) return;
    if (ack !== undefined) asked.set(ack, { client: this, since: Date.now() });
    const text = JSON.stringify({ action: 'message', message, ack, from: this.id });
    if (typeof dest === 'string') clients.get(dest)?.write(text);
    else if (Array.isArray(dest)) for (const id of dest) clients.get(id)?.write(text);
  }

  answer({ ack, message }) {
    const request = asked.get(ack);
    if (request === undefined) return;
    asked.delete(ack);
    request.client.write(JSON.stringify({ action: 'answer', ack, from: this.id, message }));
  }

  leave() {
    const owner = this.id !== undefined && clients.get(this.id) === this;
    if (owner) clients.delete(this.id);
    this.id = undefined;
    return owner;
  }
}

const actions = new Set(['register', 'unregister', 'send', 'answer']);
const server = new WebSocketServer({
  port: 0,
  host: '127.0.0.1',
  perMessageDeflate: false,
  clientTracking: false,
});

server.on('connection', (socket, request) => {
  const client = new Client(socket, request.socket);
  socket.on('message', (data) => {
    try {
      const frame = JSON.parse(data);
      if (actions.has(frame.action)) client[frame.action](frame);
    } catch (error) {
      console.error('error:', error.message);
    }
  });
  socket.on('error', () => {});
  socket.on('close', () => client.leave());
});
server.on('listening', () => announce({ port: server.address().port }));

setInterval(() => {
  const oldest = Date.now() - ACK_TTL;
  for (const [ack, { since }] of asked) {
    if (since > oldest) break;
    asked.delete(ack);
  }
}, 60_000).unref();
