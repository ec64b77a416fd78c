'use strict';

// The protocol of this package on Bun's own server. Messages of one turn are queued per receiver and sent
// under one cork, so that they leave in one write: by itself, Bun corks only the socket that it reads from.
// That takes half the processor time of one send per message (`--unqueued`) for pipelined messages, and a
// quarter of it in a fan-out. Microtasks and nextTick run after each message, too early to collect several.
// With single messages both perform equally.

const { announce } = require('./stdio');

const queueing = !process.argv.includes('--unqueued');
const clients = new Map(); // id -> socket
const asked = new Map(); // ack -> the asking socket
let waiting = []; // sockets with queued texts

function flushAll() {
  const sockets = waiting;
  waiting = [];
  for (const socket of sockets) {
    const texts = socket.data.queue;
    socket.data.queue = [];
    socket.cork(() => {
      for (const text of texts) socket.send(text);
    });
  }
}

function write(socket, text) {
  if (!queueing) {
    socket.send(text);
    return;
  }
  if (waiting.length === 0) setImmediate(flushAll);
  if (socket.data.queue.push(text) === 1) waiting.push(socket);
}

function leave(socket) {
  const { id } = socket.data;
  const owner = id !== undefined && clients.get(id) === socket;
  if (owner) clients.delete(id);
  socket.data.id = undefined;
  return owner;
}

const actions = {
  register(socket, { id }) {
    leave(socket);
    socket.data.id = id;
    clients.set(id, socket);
    write(socket, JSON.stringify({ action: 'registered', id }));
  },

  unregister(socket) {
    const { id } = socket.data;
    if (leave(socket)) write(socket, JSON.stringify({ action: 'unregistered', id }));
  },

  send(socket, { message, dest, ack }) {
    if (ack !== undefined) asked.set(ack, socket);
    const text = JSON.stringify({ action: 'message', message, ack, from: socket.data.id });
    for (const id of Array.isArray(dest) ? dest : [dest]) {
      const client = clients.get(id);
      if (client !== undefined) write(client, text);
    }
  },

  answer(socket, { ack, message }) {
    const asker = asked.get(ack);
    if (asker === undefined) return;
    asked.delete(ack);
    write(asker, JSON.stringify({ action: 'answer', ack, from: socket.data.id, message }));
  },
};

const server = Bun.serve({
  port: 0,
  hostname: '127.0.0.1',
  fetch(request) {
    return server.upgrade(request, { data: { id: undefined, queue: [] } })
      ? undefined
      : new Response(null, { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    message(socket, text) {
      try {
        const frame = JSON.parse(text);
        actions[frame.action]?.(socket, frame);
      } catch (error) {
        console.error('error:', error.message);
      }
    },
    close: leave,
  },
});
announce({ port: server.port });
