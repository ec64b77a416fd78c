'use strict';

// The protocol of this package on `ws` 8 with its defaults, in the simple style of most programs: one write
// per message. It is the base of the ratios in the tables.

const { WebSocketServer } = require('ws');
const { announce } = require('./stdio');

const clients = new Map(); // id -> socket
const asked = new Map(); // ack -> the asking socket

function leave(socket) {
  const owner = socket.id !== undefined && clients.get(socket.id) === socket;
  if (owner) clients.delete(socket.id);
  socket.id = undefined;
  return owner;
}

const actions = {
  register(socket, { id }) {
    leave(socket);
    socket.id = id;
    clients.set(id, socket);
    socket.send(JSON.stringify({ action: 'registered', id }));
  },

  unregister(socket) {
    const { id } = socket;
    if (leave(socket)) socket.send(JSON.stringify({ action: 'unregistered', id }));
  },

  send(socket, { message, dest, ack }) {
    if (ack !== undefined) asked.set(ack, socket);
    const text = JSON.stringify({ action: 'message', message, ack, from: socket.id });
    for (const id of Array.isArray(dest) ? dest : [dest]) clients.get(id)?.send(text);
  },

  answer(socket, { ack, message }) {
    const asker = asked.get(ack);
    asked.delete(ack);
    asker?.send(JSON.stringify({ action: 'answer', ack, from: socket.id, message }));
  },
};

const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });

server.on('connection', (socket) => {
  socket.on('message', (data) => {
    try {
      const frame = JSON.parse(data);
      actions[frame.action]?.(socket, frame);
    } catch (error) {
      console.error('error:', error.message);
    }
  });
  socket.on('error', () => {});
  socket.on('close', () => leave(socket));
});
server.on('listening', () => announce({ port: server.address().port }));
