'use strict';

// Faults of TLS itself on the TLS server, and the faults of the plain server within TLS. The list at the end
// is as in faults.js.

const { once } = require('node:events');
const net = require('node:net');
const { Duplex } = require('node:stream');
const tls = require('node:tls');
const faults = require('./faults');
const { silence } = require('./silence');
const { request } = require('./wire');

const { ends } = faults;

/** Types of records. */
const ALERT = 21;
const DATA = 23;

/** All bytes until the end of a socket. */
async function all(world, socket, what) {
  const chunks = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  socket.on('error', () => {});
  if (!socket.closed) await world.within(once(socket, 'close'), what);
  return Buffer.concat(chunks);
}

/** Expects an alert, or no answer, for bytes that are not TLS. */
async function refused(world, socket, what) {
  const answer = await all(world, socket, what);
  if (answer.length > 0) world.expect(answer[0], ALERT, what);
}

function dialTcp(world) {
  return net.connect({ port: world.place.port, host: '127.0.0.1', noDelay: true });
}

/** Text, noise or misplaced records on a TLS port. */
async function plainText(world) {
  const socket = dialTcp(world);
  const wrong = [
    request(),
    'GET / HTTP/1.0\r\n\r\n',
    '{"action":"register","id":"a"}\n',
    Buffer.alloc(1000),
    // At least the head of a record. Fewer bytes might still become one.
    Buffer.concat([Buffer.from([0xff]), world.random.bytes(world.random.int(10, 3000))]),
    Buffer.from([DATA, 3, 3, 0, 4, 1, 2, 3, 4]),
    Buffer.from([ALERT, 3, 3, 0, 2, 2, 40]),
  ];
  socket.write(world.random.pick(wrong));
  await refused(world, socket, 'what is no TLS');
}

/** The first message of a TLS client. */
function hello() {
  return new Promise((resolve) => {
    const wire = new Duplex({
      read() {},
      write(chunk, _encoding, done) {
        resolve(chunk);
        done();
        setImmediate(() => client.destroy());
      },
    });
    const client = tls.connect({ socket: wire, servername: 'localhost' });
    client.on('error', () => {});
  });
}

/** A part of a TLS handshake, or all of the first flight, then disconnects. */
async function halfTls(world) {
  const { random } = world;
  const socket = dialTcp(world);
  socket.on('error', () => {});
  const bytes = await hello();
  if (random.chance(0.5)) {
    socket.write(bytes.subarray(0, random.int(0, bytes.length - 1)));
    await world.sleep(random.int(0, 500));
  } else {
    socket.write(bytes);
    await world.within(once(socket, 'data'), 'the answer to a hello');
    // The rest of the handshake with random bytes.
    if (random.chance(0.5)) socket.write(record(random.bytes(50), 50));
  }
  const closed = once(socket, 'close');
  if (random.chance(0.5)) socket.resetAndDestroy();
  else socket.end();
  socket.resume();
  await world.within(closed, 'the end of half a handshake');
}

/** A part of a TLS handshake, then silence: it ends after a timeout. */
async function slowTls(world) {
  const bytes = await hello();
  const socket = dialTcp(world);
  socket.write(bytes.subarray(0, world.random.int(0, bytes.length - 1)));
  await refused(world, socket, 'a slow handshake of TLS');
}

/** A data record, or the given part of it. */
function record(bytes, length) {
  return Buffer.concat([Buffer.from([DATA, 3, 3, length >> 8, length & 0xff]), bytes]);
}

/** Records that are not encrypted, on a working connection. */
async function garbageRecords(world) {
  const wire = await world.dial(world.id());
  const noise = world.random.bytes(world.random.int(17, 2000));
  // Noise as a data record or without a record header, and an unencrypted alert.
  const wrong = [
    record(noise, noise.length),
    Buffer.concat([Buffer.from([0xff]), noise]),
    Buffer.from([ALERT, 3, 3, 0, 2, 1, 0]),
  ];
  wire.raw.write(world.random.pick(wrong));
  await ends(world, wire, 1006, 'garbage in place of a record');
}

/** A connection that ends within a record. */
async function midRecord(world) {
  const wire = await world.dial(world.id());
  const length = world.random.int(100, 16_000);
  wire.raw.write(record(world.random.bytes(world.random.int(0, 90)), length));
  if (world.random.chance(0.5)) {
    wire.raw.end();
    await ends(world, wire, 1006, 'an end in the midst of a record');
  } else {
    await world.sleep(world.random.int(0, 200));
    await wire.destroy(world.random.chance(0.5));
  }
}

const acts = [
  [plainText, 30],
  [halfTls, 40],
  [slowTls, 6],
  [garbageRecords, 30],
  [midRecord, 30],
  [silence, 1],
  [faults.malformedJson, 10],
  [faults.malformedFrames, 20],
  [faults.oversize, 10],
  [faults.garbage, 20],
  [faults.refusedHandshakes, 10],
  [faults.halfHandshakes, 10],
  [faults.tinyFragments, 5],
  [faults.halfMessages, 10],
  [faults.vanish, 20],
  [faults.halfClosed, 20],
  [faults.storm, 0.5],
  [faults.neverReads, 1],
];

module.exports = { on: 'secure', acts };
