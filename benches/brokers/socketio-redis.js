'use strict';

// A node of Socket.IO 4 with its Redis adapter: WebSocket only, no compression, a room per id. Ids of this
// node are found in a map, as in socketio.js, without traffic to other nodes. A request to another node is an
// acknowledged broadcast to the room of one id.

const { createServer } = require('node:http');
const { parseArgs } = require('node:util');
const { createClient } = require('@redis/client');
const { createAdapter, createShardedAdapter } = require('@socket.io/redis-adapter');
const { Server } = require('socket.io');
const { announce } = require('./stdio');

/** Timeout of an answer, ms. */
const ANSWER = 10_000;

const { values } = parseArgs({
  options: { redis: { type: 'string' }, sharded: { type: 'boolean', default: false } },
});

async function main() {
  const clients = new Map(); // id -> socket of this node
  const redis = [0, 1].map(() => createClient({ url: values.redis }));
  for (const client of redis) client.on('error', (error) => console.error('error:', error.message));
  await Promise.all(redis.map((client) => client.connect()));
  const adapter = values.sharded
    ? createShardedAdapter(...redis, { subscriptionMode: 'dynamic' })
    : // Answers are sent to the asker only.
      createAdapter(...redis, { publishOnSpecificResponseChannel: true });
  const http = createServer();
  const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false, adapter });

  io.on('connection', (socket) => {
    let own;
    socket.on('register', (id, _room, done) => {
      own = id;
      clients.set(id, socket);
      socket.join(id);
      done(id);
    });
    socket.on('send', (dest, message, answer) => {
      const to = clients.get(dest);
      if (to && answer) to.emit('message', message, own, answer);
      else if (to) to.emit('message', message, own);
      else if (answer) ask(dest, message, own, answer);
      else io.to(dest).emit('message', message, own);
    });
    socket.on('disconnect', () => {
      if (clients.get(own) === socket) clients.delete(own);
    });
  });

  function ask(dest, message, from, answer) {
    io.to(dest)
      .timeout(ANSWER)
      .emit('message', message, from, (error, answers) => {
        if (error) console.error('error:', error.message);
        else answer(answers[0]);
      });
  }

  http.listen(0, '127.0.0.1', () => {
    announce({
      port: http.address().port,
      path: `${io.path()}/?EIO=4&transport=websocket`,
      protocol: 'socketio',
    });
  });
}

main().catch((error) => {
  console.error('error:', error.message);
  process.exit(1);
});
