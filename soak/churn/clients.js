'use strict';

// Minimal clients: one socket each, which registers, answers pings and counts messages.
// usage: node clients.js PORT COUNT FIRST PLACE: port of the broker; number of clients; number of the first id; index of this
// process

const net = require('node:net');
const { PING, frame, request, text } = require('../wire');
const { idOf } = require('./ids');

const PONG = 10;
/** Connections opened at a time. */
const LANES = 64;
/**
 * Each process has its own source addresses, with these ports each. Searching for a free port would take
 * longer.
 */
const [LOWEST, PORTS] = [20_000, 40_000];

const [port, count, first, place] = process.argv.slice(2).map(Number);
const HEAD = Buffer.from(request());
const HEAD_END = '\r\n\r\n';

/** Received messages by content. */
const arrived = {};
let isOver = false;

/** The length of the first frame and the start of its payload, or none if it is incomplete. */
function measure(bytes) {
  if (bytes.length < 2) return undefined;
  const isLong = bytes[1] === 126;
  if (isLong && bytes.length < 4) return undefined;
  const start = isLong ? 4 : 2;
  const end = start + (isLong ? bytes.readUInt16BE(2) : bytes[1]);
  return end <= bytes.length ? { start, end } : undefined;
}

/** Resolves when the client is registered. */
function open(number) {
  const socket = net.connect({
    port,
    host: '127.0.0.1',
    localAddress: `127.0.${place + 1}.${1 + Math.floor((number - first) / PORTS)}`,
    localPort: LOWEST + ((number - first) % PORTS),
    noDelay: true,
  });
  // The broker reads bytes that arrive with the handshake.
  socket.write(Buffer.concat([HEAD, text({ action: 'register', id: idOf(number) })]));
  return new Promise((resolve) => {
    let rest;
    let isOpen = false;
    socket.on('data', (chunk) => {
      let bytes = rest ? Buffer.concat([rest, chunk]) : chunk;
      if (!isOpen) {
        const end = bytes.indexOf(HEAD_END);
        if (end >= 0) bytes = bytes.subarray(end + HEAD_END.length);
        isOpen = end >= 0;
      }
      for (let one = measure(bytes); isOpen && one; one = measure(bytes)) {
        const payload = bytes.subarray(one.start, one.end);
        if ((bytes[0] & 15) === PING) socket.write(frame(PONG, payload));
        else take(JSON.parse(payload), resolve);
        bytes = bytes.subarray(one.end);
      }
      rest = bytes.length > 0 ? bytes : undefined;
    });
    let why = 'the connection was closed';
    socket.on('error', ({ message }) => {
      why = message;
    });
    socket.on('close', () => {
      if (!isOver) process.send({ broken: `${idOf(number)}: ${why}` });
    });
  });
}

function take({ action, message }, registered) {
  if (action === 'registered') registered();
  else if (action === 'message') arrived[message] = (arrived[message] ?? 0) + 1;
}

async function register() {
  let next = first;
  const lane = async () => {
    while (next < first + count) {
      next += 1;
      await open(next - 1);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  process.send({ registered: Date.now() });
}

process.on('message', (message) => {
  if (message === 'register') {
    register();
  } else if (message === 'arrived') {
    process.send({ arrived });
  } else {
    isOver = true;
    process.disconnect();
  }
});
process.on('disconnect', () => process.exit());
process.send({ ready: true });
