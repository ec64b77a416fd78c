'use strict';

// Misbehaving clients, one function each, which ends when the broker has reacted as required. The list at the
// end has the number of plays per minute. To add a fault, write a function and add it to the list. The
// required reactions are in spec/protocol.md, cited by rule.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { DEADLINE, LIMITS } = require('./limits');
const { CLOSE, PING, TEXT, Wire, frame, request, text } = require('./wire');

/** More than an outbox and the buffers of the kernel hold, bytes. */
const FLOOD = 24 << 20;
/** One message of a flood, bytes. */
const WAVE = 256 << 10;
const OVERSIZE = LIMITS.maxPayload + 1;

async function ends(world, wire, code, what) {
  world.expect(await world.within(wire.ended, what), code, what);
}

/** Texts that are not actions are refused, and later ones are carried out (rules 1.2 to 1.5). */
async function malformedJson(world) {
  const wire = await world.dial(world.id());
  const texts = ['', '{', '[]', 'null', '1', '"register"', '{"action":{}}', '{"action":"dance"}'];
  for (let left = world.random.int(1, 5); left > 0; left -= 1) {
    wire.write(
      frame(TEXT, world.random.pick([...texts, '['.repeat(10_000), '{"a":'.repeat(1000)])),
    );
  }
  wire.write(frame(2, world.random.bytes(10)));
  await wire.ping();
  await wire.close();
}

/** Invalid actions and actions beyond limits are refused (rules 4 and 6 to 8). */
async function refusedActions(world) {
  const id = world.id();
  const wire = await world.dial(id);
  const other = await world.dial(world.id());
  const ack = world.id();
  wire.send({ action: 'send', message: 'held', dest: id, ack });
  await wire.action('message');
  const refused = [
    { action: 'register' },
    { action: 'register', id: {} },
    { action: 'register', id: 'x'.repeat(9000) },
    { action: 'send', message: 1 },
    { action: 'send', message: 1, dest: { id } },
    { action: 'send', message: 1, dest: Array(70_000).fill(id) },
    { action: 'send', message: 1, dest: id, ack: 'x'.repeat(9000) },
    { action: 'send', message: 1, dest: id, ack },
    { action: 'answer', message: 1 },
    { action: 'answer', message: 1, ack: 'nobody asked' },
  ];
  other.send(world.random.pick(refused));
  other.send(world.random.pick(refused));
  await other.ping();
  await Promise.all([wire.close(), other.close()]);
}

/** Frames that violate RFC 6455 (rule 15.2). */
async function malformedFrames(world) {
  const wire = await world.dial(world.id());
  const started = frame(TEXT, '{', { fin: false });
  const wrong = [
    frame(TEXT, '{}', { rsv: 4 }),
    frame(3, ''),
    frame(11, ''),
    frame(TEXT, '{}', { masked: false }),
    frame(0, '}'),
    Buffer.concat([started, frame(TEXT, '}')]),
    frame(PING, '', { fin: false }),
    frame(PING, 'x'.repeat(126)),
    frame(CLOSE, [3, 237]),
  ];
  wire.write(world.random.pick(wrong));
  await ends(world, wire, 1002, 'a malformed frame');
}

/** A text that is not UTF-8 (rule 15.3). */
async function notUtf8(world) {
  const wire = await world.dial(world.id());
  wire.write(
    frame(TEXT, world.random.pick([[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xe2, 0x82]])),
  );
  await ends(world, wire, 1007, 'a text that is not UTF-8');
}

/** A message larger than maxPayload, by its header or in fragments (rule 15.4). */
async function oversize(world) {
  const wire = await world.dial(world.id());
  if (world.random.chance(0.8)) {
    wire.write(frame(TEXT, '', { length: OVERSIZE }));
  } else {
    const half = Buffer.alloc(OVERSIZE / 2 + 1, ' ');
    wire.write(frame(TEXT, half, { fin: false }));
    wire.write(frame(0, half));
  }
  await ends(world, wire, 1009, 'a message that is too large');
}

/** Random bytes, then disconnects. */
async function garbage(world) {
  const wire = await world.dial(world.id());
  wire.write(world.random.bytes(world.random.int(1, 2000)));
  await Promise.race([wire.ended, world.sleep(world.random.int(0, 500))]);
  await wire.destroy();
}

/** Messages to unknown ids (rule 6.5). */
async function unknownReceivers(world) {
  const id = world.id();
  const wire = await world.dial(id);
  const dest = Array.from({ length: world.random.int(1, 20) }, () => world.id());
  wire.send({ action: 'send', message: 1, dest: [...dest, id], ack: world.id() });
  await wire.action('message');
  await wire.close();
}

/** Requests that are not a handshake (rules 14.2 to 14.7). */
async function refusedHandshakes(world) {
  const requests = [
    [request({ path: '/elsewhere' }), 404],
    [request({ method: 'POST' }), 405],
    [request({ version: 7 }), 400],
    [request({ fields: `X: ${'x'.repeat(20_000)}\r\n` }), 431],
    ['GET / HTTP/1.1\r\nHost: localhost\r\n\r\n', 426],
    ['\x16\x03\x01 this is no HTTP\r\n\r\n', 400],
  ];
  const [head, status] = world.random.pick(requests);
  const wire = new Wire(world.place);
  wire.write(head);
  world.expect(await world.within(wire.status, 'a refusal'), status, head.slice(0, 40));
  await wire.ended;
}

/** A part of a handshake, then disconnects. */
async function halfHandshakes(world) {
  const wire = new Wire(world.place);
  const head = request();
  wire.write(head.slice(0, world.random.int(0, head.length - 1)));
  await world.sleep(world.random.int(0, 500));
  await wire.destroy(world.random.chance(0.5));
}

/** A part of a handshake, then silence (rule 14.5). */
async function slowHandshakes(world) {
  const wire = new Wire(world.place);
  const head = request();
  wire.write(head.slice(0, world.random.int(0, head.length - 1)));
  world.expect(await world.within(wire.status, 'a refusal'), 408, 'a slow handshake');
  await wire.ended;
}

/** Handshake and actions, byte by byte or all at once (rule 14.1). */
async function oddSegments(world) {
  const id = world.id();
  const wire = new Wire(world.place);
  const message = { action: 'send', message: 'on the heels', dest: id };
  const bytes = Buffer.concat([
    Buffer.from(request()),
    text(world.registration(id)),
    text(message),
  ]);
  const step = world.random.pick([1, 7, bytes.length]);
  const arrived = wire.action('message');
  for (let at = 0; at < bytes.length; at += step) {
    wire.write(bytes.subarray(at, at + step));
    if (step < bytes.length) await new Promise(setImmediate);
  }
  await arrived;
  await wire.close();
}

/** A message in fragments of a few bytes, with pings between them (rules 1.1 and 1.6). */
async function tinyFragments(world) {
  const id = world.id();
  const wire = await world.dial(id);
  const message = 'x'.repeat(world.random.int(1, 5000));
  const bytes = Buffer.from(JSON.stringify({ action: 'send', message, dest: id }));
  const size = world.random.pick([1, 1, 3, 100]);
  const frames = [];
  for (let at = 0; at < bytes.length; at += size) {
    const fin = at + size >= bytes.length;
    frames.push(frame(at === 0 ? TEXT : 0, bytes.subarray(at, at + size), { fin }));
    if (world.random.chance(0.01)) frames.push(frame(PING, 'between'));
  }
  wire.write(Buffer.concat(frames));
  const arrived = await wire.action('message');
  world.expect(arrived.message, message, 'a message in fragments');
  await wire.close();
}

/** The beginning of a message only. */
async function halfMessages(world) {
  const wire = await world.dial(world.id());
  const bytes = frame(TEXT, world.random.bytes(100), { length: world.random.int(101, 1 << 20) });
  wire.write(bytes.subarray(0, world.random.int(1, bytes.length)));
  await world.sleep(world.random.int(0, 2000));
  await wire.destroy(world.random.chance(0.5));
}

/** Disconnects without a close frame, with pending requests in both directions (rules 5.4 and 7.10). */
async function vanish(world) {
  const ids = [world.id(), world.id()];
  const [wire, other] = await Promise.all(ids.map((id) => world.dial(id)));
  wire.send({ action: 'send', message: 1, dest: ids, ack: world.id() });
  other.send({ action: 'send', message: 1, dest: ids, ack: world.id() });
  await Promise.all([wire.ping(), other.ping()]);
  await wire.destroy(world.random.chance(0.5));
  await other.ping();
  await other.destroy(world.random.chance(0.5));
}

/** Half-closes its connection without a close frame. */
async function halfClosed(world) {
  const wire = await world.dial(world.id());
  wire.socket.end();
  await ends(world, wire, 1006, 'an end without a close frame');
}

/** Sends a close frame but stays: its socket is destroyed after closeTimeout (rule 15.7). */
async function overstaying(world) {
  const wire = await world.dial(world.id());
  wire.socket.pause();
  wire.write(frame(CLOSE, [3, 232]));
  // As long as the broker may wait for it. Received bytes are read afterwards.
  await world.sleep(6000);
  wire.socket.resume();
  await ends(world, wire, 1000, 'a goodbye');
}

/** Many connections at the same time, most of which disconnect at once. */
async function storm(world) {
  const wires = Array.from({ length: 100 }, () => new Wire(world.place));
  await Promise.all(
    wires.map(async (wire) => {
      wire.write(request());
      if (world.random.chance(0.5)) await wire.status;
      await wire.destroy(world.random.chance(0.5));
    }),
  );
}

/** One connection that changes its id continuously (rules 4.8 and 5.1). */
async function idJuggling(world) {
  const wire = await world.dial();
  for (let left = 50; left > 0; left -= 1) {
    wire.send(world.registration(world.id()));
    if (world.random.chance(0.3)) wire.send({ action: 'unregister' });
  }
  await wire.ping();
  await wire.close();
}

/** Continuous pings, with pongs that are not read. Pongs beyond a limit are dropped. */
async function pingFlood(world) {
  const wire = await world.dial(world.id());
  wire.socket.pause();
  const pings = Buffer.concat(Array.from({ length: 2000 }, () => frame(PING, 'x'.repeat(100))));
  for (let left = 10; left > 0; left -= 1) wire.write(pings);
  await world.sleep(1000);
  wire.socket.resume();
  await wire.close();
}

/** Reads nothing: its senders get backpressure until it is closed (rule 17.4). */
async function neverReads(world) {
  // Few ids: some return within a minute and get no delay budget (rule 17.7).
  const id = `never-reads-${world.random.int(1, 4)}`;
  const slow = await world.dial(id);
  slow.socket.pause();
  const sender = await world.dial(world.id());
  const wave = text({ action: 'send', message: 'x'.repeat(WAVE), dest: id });
  for (let sent = 0; sent < FLOOD; sent += WAVE) sender.write(wave);
  // The ping is not answered while the sender is delayed.
  await sender.ping();
  slow.socket.resume();
  await ends(world, slow, 1013, 'one that does not read');
  await sender.close();
}

/** Sends requests without reading the answers (rule 17.5). */
async function neverReadsAnswers(world) {
  const [asking, answering] = [world.id(), world.id()];
  const slow = await world.dial(asking);
  const answerer = await world.dial(answering);
  slow.socket.pause();
  const message = 'x'.repeat(WAVE);
  answerer.on('action', ({ ack }) => answerer.send({ action: 'answer', ack, message }));
  let sent = 0;
  for (; sent < FLOOD; sent += WAVE) {
    slow.send({ action: 'send', message: sent, dest: answering, ack: `${asking}-${sent}` });
  }
  await answerer.next('action', (last) => last.message === sent - WAVE);
  // Answers get no backpressure. This message does, until the slow asker is closed.
  answerer.send({ action: 'send', message, dest: asking });
  await answerer.ping();
  slow.socket.resume();
  await ends(world, slow, 1013, 'one that does not read answers');
  await answerer.close();
}

/** Requests that are not answered in time expire, and a late answer is dropped (rule 7.7). */
async function unanswered(world) {
  const silentId = world.id();
  const asker = await world.dial(world.id());
  const silent = await world.dial(silentId);
  const acks = Array.from({ length: world.random.int(1, 500) }, () => world.id());
  for (const ack of acks) asker.send({ action: 'send', message: 1, dest: silentId, ack });
  await Promise.all([asker.ping(), silent.ping()]);
  let late = 0;
  asker.on('action', () => {
    late += 1;
  });
  await world.sleep(LIMITS.ackTimeout + 1000);
  if (!world.stopping) {
    for (const ack of acks) silent.send({ action: 'answer', ack, message: 1 });
    await silent.ping();
    await asker.ping();
    world.expect(late, 0, 'answers that came too late');
  }
  await Promise.all([asker.close(), silent.close()]);
}

/** A process that is killed during its traffic. */
async function killedProcess(world) {
  const args = [String(world.place.port), world.id()];
  const child = fork(path.join(__dirname, 'victim.js'), args);
  try {
    await once(child, 'message', { signal: AbortSignal.timeout(DEADLINE) });
    await world.sleep(world.random.int(0, 3000));
  } finally {
    child.kill('SIGKILL');
  }
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

const acts = [
  [malformedJson, 60],
  [refusedActions, 60],
  [malformedFrames, 80],
  [notUtf8, 30],
  [oversize, 40],
  [garbage, 40],
  [unknownReceivers, 30],
  [refusedHandshakes, 60],
  [halfHandshakes, 60],
  [slowHandshakes, 6],
  [oddSegments, 12],
  [tinyFragments, 20],
  [halfMessages, 40],
  [vanish, 80],
  [halfClosed, 40],
  [overstaying, 8],
  [storm, 2],
  [idJuggling, 20],
  [pingFlood, 3],
  [neverReads, 3],
  [neverReadsAnswers, 1],
  [unanswered, 4],
  [killedProcess, 2],
];

module.exports = {
  on: 'plain',
  acts,
  ends,
  garbage,
  halfClosed,
  halfHandshakes,
  halfMessages,
  malformedFrames,
  malformedJson,
  neverReads,
  oversize,
  refusedHandshakes,
  storm,
  tinyFragments,
  vanish,
};
