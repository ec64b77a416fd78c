'use strict';

// Socket.IO 4 with addressed events: WebSocket only, no compression, a map from ids to sockets, a room for
// the receivers of a broadcast, and its own acknowledgements for requests.

const { createServer } = require('node:http');
const { Server } = require('socket.io');
const { announce } = require('./stdio');

const clients = new Map(); // id -> socket
const http = createServer();
const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false });

io.on('connection', (socket) => {
  let own;
  socket.on('register', (id, room, done) => {
    own = id;
    clients.set(id, socket);
    if (room) socket.join(room);
    done(id);
  });
  socket.on('send', (dest, message, answer) => {
    const to = clients.get(dest);
    if (answer) to?.emit('message', message, own, answer);
    else to?.emit('message', message, own);
  });
  socket.on('broadcast', (room, message) => io.to(room).emit('message', message, own));
  socket.on('disconnect', () => {
    if (clients.get(own) === socket) clients.delete(own);
  });
});

http.listen(0, '127.0.0.1', () => {
  announce({
    port: http.address().port,
    path: `${io.path()}/?EIO=4&transport=websocket`,
    protocol: 'socketio',
  });
});
