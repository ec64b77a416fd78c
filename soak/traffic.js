'use strict';

// Traffic of well-behaved clients, checked by a ledger. The list at the end has the number of plays per
// minute of each act; those with 0 last as long as the run.

const { once } = require('node:events');
const { LONGEST } = require('./ledger');

/** Pairs of clients, ours and plain, as sender and receiver. */
const MIXTURES = [false, true].flatMap((from) => [false, true].map((to) => [from, to]));

/** Average pause between two batches of a sender, ms. */
const PAUSE = 120;

/** A length in characters: mostly short, sometimes long. */
function length(random) {
  return random.chance(0.01) ? random.int(0, 50_000) : random.int(0, 400);
}

/** Two clients of each pair: one sends to the other in batches. */
async function pairs(world) {
  await Promise.all([...MIXTURES, ...MIXTURES].map((mixture) => pair(world, ...mixture)));
}

async function pair(world, fromPlain, toPlain) {
  const from = await world.client(fromPlain);
  const to = await world.client(toPlain);
  const stream = world.ledger.stream(`${from.id} to ${to.id}`);
  to.on('message', (message) => stream.arrive(message));
  while (!world.stopping) {
    for (let left = world.random.int(1, 60); left > 0; left -= 1) {
      from.send(stream.next(length(world.random)), to.id);
    }
    await world.sleep(world.random.interval(PAUSE));
  }
  await stream.settled();
  await Promise.all([from.close(), to.close()]);
}

/** Two clients of each pair: one sends several requests at a time, the other answers. */
async function questions(world) {
  await Promise.all(MIXTURES.map((mixture) => dialogue(world, ...mixture)));
}

async function dialogue(world, askerPlain, answererPlain) {
  const asker = await world.client(askerPlain);
  const answerer = await world.client(answererPlain);
  const asked = world.ledger.stream(`${asker.id} asks ${answerer.id}`);
  const answered = world.ledger.stream(`${answerer.id} answers ${asker.id}`);
  answerer.on('message', (message, response) => {
    asked.arrive(message);
    response.send(answered.next(length(world.random)));
  });
  while (!world.stopping) {
    for (let left = world.random.int(1, 8); left > 0; left -= 1) {
      asker.send(asked.next(length(world.random)), answerer.id, (_from, answer) =>
        answered.arrive(answer),
      );
    }
    await world.sleep(world.random.interval(PAUSE));
  }
  await asked.settled();
  await answered.settled();
  await Promise.all([asker.close(), answerer.close()]);
}

/** One request to several responders: the fastest answer wins, once. */
async function races(world) {
  const asker = await world.client(true);
  const answerers = await Promise.all([false, true, true].map((plain) => world.client(plain)));
  for (const answerer of answerers) {
    answerer.on('message', (message, response) => response.send(message));
  }
  const stream = world.ledger.stream(`${asker.id} asks all`);
  const ids = answerers.map(({ id }) => id);
  while (!world.stopping) {
    const question = stream.next(length(world.random));
    await world.within(
      new Promise((resolve) => {
        asker.send(question, ids, (_from, answer) => resolve(stream.arrive(answer)));
      }),
      'an answer of the fastest',
    );
    await world.sleep(world.random.interval(PAUSE));
  }
  await Promise.all([asker, ...answerers].map((client) => client.close()));
}

/** One message to many receivers. */
async function multicast(world) {
  const from = await world.client(false);
  const receivers = await Promise.all(
    Array.from({ length: 16 }, (_, index) => world.client(index % 2 === 0)),
  );
  const streams = receivers.map((receiver) => {
    const stream = world.ledger.stream(`${from.id} to all, ${receiver.id}`);
    receiver.on('message', (message) => stream.arrive(message));
    return stream;
  });
  const ids = receivers.map(({ id }) => id);
  while (!world.stopping) {
    const size = length(world.random);
    // All streams have the same next number.
    const [message] = streams.map((stream) => stream.next(size));
    from.send(message, ids);
    await world.sleep(world.random.interval(PAUSE));
  }
  await Promise.all(streams.map((stream) => stream.settled()));
  await Promise.all([from, ...receivers].map((client) => client.close()));
}

/** Several large messages to a receiver that pauses: the sender gets backpressure. */
async function bursts(world) {
  const from = await world.client(world.random.chance(0.5));
  const to = await world.client(world.random.chance(0.5));
  const stream = world.ledger.stream(`${from.id} to ${to.id}`);
  to.on('message', (message) => stream.arrive(message));
  const hesitates = to.wire && world.random.chance(0.5);
  if (hesitates) to.wire.socket.pause();
  for (let left = world.random.int(4, 16); left > 0; left -= 1) {
    from.send(stream.next(LONGEST), to.id);
  }
  if (hesitates) {
    // Shorter than the time after which it would be closed as slow.
    await world.sleep(world.random.int(0, 2000));
    to.wire.socket.resume();
  }
  await stream.settled();
  world.ledger.close(stream);
  await Promise.all([from.close(), to.close()]);
}

/** A client that connects, sends to itself, and disconnects in any of the possible ways. */
async function churn(world) {
  const { random } = world;
  const plain = random.chance(0.5);
  const client = await world.client(plain);
  const stream = world.ledger.stream(client.id);
  client.on('message', (message, response) => {
    stream.arrive(message);
    response?.send(message.n);
  });
  for (let left = random.int(0, 4); left > 0; left -= 1) {
    client.send(stream.next(length(random)), client.id);
  }
  const question = stream.next();
  const answer = await world.within(
    new Promise((resolve) => {
      client.send(question, client.id, (_from, answer) => resolve(answer));
    }),
    'the own answer',
  );
  world.expect(answer, question.n, 'the own answer');
  await stream.settled();
  world.ledger.close(stream);
  if (random.chance(0.3)) {
    client.unregister();
    await once(client, 'unregistered');
  }
  await world.within(
    plain && random.chance(0.5) ? client.wire.destroy(random.chance(0.5)) : client.close(),
    'the end',
  );
}

/** Registered clients that rarely send. Some are replaced from time to time. */
async function idlers(world) {
  const wires = [];
  while (!world.stopping) {
    const next = await world.dial(world.id());
    if (wires.length < 100) {
      wires.push(next);
    } else {
      const place = world.random.int(0, wires.length - 1);
      await wires[place].ping();
      await wires[place].close();
      wires[place] = next;
    }
    await world.sleep(wires.length < 100 ? 10 : world.random.interval(1000));
  }
  await Promise.all(wires.map((wire) => wire.close()));
}

/** One id that is taken over repeatedly while messages are sent to it: each message reaches one owner. */
async function takeOvers(world) {
  const throne = world.id();
  const from = await world.client(false);
  let old = await reign(world, throne);
  let sent = 0;
  const timer = setInterval(() => {
    sent += 1;
    from.send(sent, throne);
  }, 20);
  await world.within(old.begun, 'a message to the first owner');
  while (!world.stopping) {
    await world.sleep(world.random.interval(2000));
    const next = await reign(world, throne);
    await world.within(next.begun, 'a message to the new owner');
    // The pong follows everything that was sent to the old owner.
    await old.wire.ping();
    world.expect(old.last, next.first - 1, 'the last message to the old owner');
    await old.wire.close();
    old = next;
  }
  clearInterval(timer);
  while (old.last !== sent) await world.within(old.wire.next('action'), 'the last message');
  await Promise.all([from.close(), old.wire.close()]);
}

/** An owner of the id, with the first and last message that it received. */
async function reign(world, id) {
  const wire = await world.dial();
  const owner = { wire };
  owner.begun = new Promise((resolve) => {
    wire.on('action', ({ action, message }) => {
      if (action !== 'message') return;
      if (owner.last === undefined) owner.first = message;
      else if (message !== owner.last + 1) world.broken(`${message} after ${owner.last}`);
      owner.last = message;
      resolve();
    });
  });
  wire.send(world.registration(id));
  await wire.action('registered');
  return owner;
}

const acts = [
  [pairs, 0],
  [questions, 0],
  [races, 0],
  [multicast, 0],
  [bursts, 12],
  [churn, 1000],
  [idlers, 0],
  [takeOvers, 0],
];

module.exports = {
  on: 'plain',
  acts,
  MIXTURES,
  bursts,
  churn,
  length,
  pairs,
  questions,
  takeOvers,
};
