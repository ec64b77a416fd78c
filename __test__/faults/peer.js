'use strict';

// A peer of faults.test.js: sends messages to the others continuously, and reconnects whenever its connection
// has ended. Each connection has a name. Sent messages are numbered per receiver. Received messages are
// reported as `[from, n, to]` with the names of both connections.
// usage: node peer.js PORT ID [ID ...]: its own id first

const { randomUUID } = require('node:crypto');
const WSMsgBroker = require('../..');
const block = require('./block');

const RECONNECT_MS = 25;
const TALK_MS = 5;
const [port, id, ...others] = process.argv.slice(2);

/** Received messages that are not reported yet. */
let arrived = [];
/** The open connection: its name, the client, and its last number to each other peer. Null while closed. */
let connection = null;
let silent = false;

connect();
setInterval(talk, TALK_MS);

process.on('message', (command) => {
  if (command.block) return block();
  silent = true;
  return process.send({ sent: connection.sent, from: connection.name });
});
process.on('disconnect', () => process.exit());

function connect() {
  const client = new WSMsgBroker(id, '127.0.0.1', port);
  const name = randomUUID();
  client.on('registered', () => {
    connection = { name, client, sent: {} };
    process.send({ up: name });
  });
  client.on('message', ({ from, n }) => arrived.push([from, n, name]));
  // Refused or lost: a close event follows.
  client.on('error', () => {});
  client.on('close', (code) => {
    if (connection?.name === name) {
      connection = null;
      process.send({ down: name, code });
    }
    setTimeout(connect, RECONNECT_MS);
  });
}

function talk() {
  if (arrived.length > 0) {
    process.send({ arrived });
    arrived = [];
  }
  if (connection === null || silent) return;
  for (const other of others) {
    const n = (connection.sent[other] ?? 0) + 1;
    connection.sent[other] = n;
    connection.client.send({ from: connection.name, n }, other);
  }
}
