'use strict';

// Unauthorized attempts on the server with TLS and tokens: to connect, to own an id, to send to an id, or to
// stay. The list at the end is as in faults.js.

const { ends } = require('./faults');
const { DEADLINE } = require('./limits');
const { ISSUER, inSeconds, sign } = require('./token');
const { frame, TEXT } = require('./wire');

/** The errors of our client before it is closed. */
const REASONS = {
  4401: 'ERR_WSMB_UNAUTHORIZED',
  4403: 'ERR_WSMB_FORBIDDEN',
  4409: 'ERR_WSMB_CONFLICT',
};

/** Expects the close code of a refused connection. */
async function denied(world, wire, code, what) {
  await ends(world, wire, code, what);
  world.met('denied');
}

/** Tokens that are invalid or do not allow the id, with the close code of each. */
function badTokens(world, id) {
  const claims = { sub: id, iss: ISSUER, exp: inSeconds(3600) };
  const { secret } = world.place;
  const good = sign(claims, secret);
  const [head, body, signature] = good.split('.');
  const wider = Buffer.from(JSON.stringify({ ...claims, sub: '*' })).toString('base64url');
  return [
    ['no token', undefined, 4401],
    ['no text', '', 4401],
    ['garbage', world.random.bytes(30).toString('base64'), 4401],
    ['too long', 'x'.repeat(9000), 4401],
    ['expired', sign({ ...claims, exp: inSeconds(-1) }, secret), 4401],
    ['without an end', sign({ ...claims, exp: undefined }, secret), 4401],
    ['not yet valid', sign({ ...claims, nbf: inSeconds(3600) }, secret), 4401],
    ['of another issuer', sign({ ...claims, iss: 'another' }, secret), 4401],
    ['of nobody', sign({ ...claims, sub: undefined }, secret), 4401],
    ['with a wrong signature', sign(claims, `${secret}!`), 4401],
    ['without a signature', `${head}.${body}.`, 4401],
    ['with other claims', `${head}.${wider}.${signature}`, 4401],
    ['with no algorithm', sign(claims, secret, 'none'), 4401],
    ['with another algorithm', sign(claims, secret, 'HS512'), 4401],
    ['for another id', sign({ ...claims, sub: `${id}?` }, secret), 4403],
    ['for other ids', sign({ ...claims, sub: `${id}?*` }, secret), 4403],
  ];
}

/** Registrations with unacceptable tokens (rules 22.2 and 22.3). */
async function refusedTokens(world) {
  const id = world.id();
  const [what, token, code] = world.random.pick(badTokens(world, id));
  if (world.random.chance(0.5)) {
    const wire = await world.dial();
    wire.send({ action: 'register', id, token });
    // This message is not delivered.
    wire.send({ action: 'send', message: 1, dest: id });
    await denied(world, wire, code, what);
    return;
  }
  const client = world.connect(false, id, token);
  const reasons = [];
  client.on('error', (error) => reasons.push(error.code));
  const [found] = await world.within(heard(client, 'close'), what);
  world.expect(found, code, what);
  world.expect(reasons.join(), REASONS[code], what);
  world.met('denied');
}

/** The next event of a client, without `once` rejecting on its errors. */
function heard(client, event) {
  return new Promise((resolve) => {
    client.once(event, (...values) => resolve(values));
  });
}

/** Any action but `register` before the registration (rule 22.1). */
async function strangers(world) {
  const id = world.id();
  const wire = await world.dial();
  await wire.ping();
  const wrong = [
    { action: 'send', message: 1, dest: id },
    { action: 'answer', message: 1, ack: id },
    { action: 'unregister' },
    { action: 'register', token: world.token(id) },
    { action: 'dance' },
  ].map((action) => frame(TEXT, JSON.stringify(action)));
  wrong.push(frame(TEXT, '{'), frame(2, 'binary'));
  wire.write(world.random.pick(wrong));
  await denied(world, wire, 4401, 'a stranger');
}

/** A message larger than unregistered connections may send (rule 22.8). */
async function longStrangers(world) {
  const wire = await world.dial();
  wire.write(frame(TEXT, '', { length: (64 << 10) + 1 }));
  await ends(world, wire, 1009, 'a long message of a stranger');
}

/** Connects and does not register in time (rule 22.7). */
async function lingerers(world) {
  const wires = await Promise.all(Array.from({ length: 5 }, () => world.dial()));
  await Promise.all(
    wires.map(async (wire) => {
      await ends(world, wire, 1008, 'one that does not register');
      world.met('unregistered');
    }),
  );
}

/** Unregisters and continues to send (rule 22.1). */
async function unregistered(world) {
  const id = world.id();
  const wire = await world.dial(id);
  wire.send({ action: 'unregister' });
  await wire.action('unregistered');
  wire.send({ action: 'send', message: 1, dest: id });
  await denied(world, wire, 4401, 'one that has unregistered');
}

/** An id that another principal owns: the owner is not affected (rule 22.4). */
async function conflicts(world) {
  const id = world.id();
  const owner = await world.client(world.random.chance(0.5), id);
  const stream = world.ledger.stream(id);
  owner.on('message', (message) => stream.arrive(message));
  owner.send(stream.next(), id);
  const wire = await world.dial();
  wire.send(world.registration(id, { sub: `${world.name}-*` }));
  await denied(world, wire, 4409, 'an id of another principal');
  owner.send(stream.next(), id);
  await stream.settled();
  world.ledger.close(stream);
  await owner.close();
}

/** Messages to several ids of which the token allows some: only those are delivered (rule 22.10). */
async function forbidden(world) {
  const ids = [world.id(), world.id()];
  const [friend, other] = await Promise.all(ids.map((id) => world.client(true, id)));
  const send = world.random.pick([ids[0], [`${ids[0]}*`], ['nobody', ids[0]]]);
  const from = await world.client(world.random.chance(0.5), world.id(), { send });
  const stream = world.ledger.stream(`${from.id} to ${friend.id}`);
  friend.on('message', (message) => stream.arrive(message));
  other.on('message', () => world.broken('a message to one that may not be sent to'));
  for (let left = world.random.int(1, 20); left > 0; left -= 1) {
    from.send('no', world.random.pick([ids[1], ids, [world.id()]]));
    from.send(stream.next(), ids[0]);
  }
  await stream.settled();
  world.ledger.close(stream);
  await other.wire.ping();
  await Promise.all([friend.close(), other.close(), from.close()]);
}

/** A renewal with an unacceptable token is refused like a registration (rule 22.6). */
async function refusedRenewals(world) {
  const id = world.id();
  const wire = await world.dial(id);
  const [what, token, code] = world.random.pick(badTokens(world, id));
  wire.send({ action: 'register', id, token });
  await denied(world, wire, code, `a renewal, ${what}`);
}

/** Tokens that expire while their clients exchange messages (rule 22.6). */
async function expiries(world) {
  const id = world.id();
  // Enough time to register first on a busy machine.
  const exp = inSeconds(world.random.int(8, 12));
  const client = await world.client(world.random.chance(0.5), id, { exp });
  // The error is expected from now on.
  client.removeAllListeners('error');
  const reasons = [];
  client.on('error', (error) => reasons.push(error.code));
  const stream = world.ledger.stream(id);
  client.on('message', (message) => stream.arrive(message));
  const closed = heard(client, 'close');
  client.send(stream.next(), id);
  await stream.settled();
  world.ledger.close(stream);
  const [code] = await world.within(closed, 'a token that ends', DEADLINE + 12_000);
  world.expect(code, 4401, 'a token that ends');
  if (!client.wire) world.expect(reasons.join(), REASONS[4401], 'a token that ends');
  if (Date.now() < exp * 1000 - 50)
    throw new Error('the connection ended before its token expired');
  world.met('denied');
}

const acts = [
  [refusedTokens, 60],
  [strangers, 30],
  [longStrangers, 10],
  [lingerers, 4],
  [unregistered, 10],
  [conflicts, 20],
  [forbidden, 20],
  [refusedRenewals, 20],
  [expiries, 20],
];

module.exports = { on: 'secure', acts };
