'use strict';

const { createHmac, generateKeyPairSync } = require('node:crypto');
const { once } = require('node:events');
const vm = require('node:vm');
const test = require('ava');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

/** A client that is not registered yet, and the events with which its connection ends. */
function connect(t, server, id, options) {
  const client = new WSMsgBroker(id, '127.0.0.1', server.address().port, '/', options);
  t.teardown(() => client.close());
  const heard = [];
  client.on('error', (error) => heard.push(error.code));
  client.on('registered', () => heard.push('registered'));
  const closed = new Promise((resolve) => {
    client.on('close', (code) => resolve([...heard, code]));
  });
  return { client, closed };
}

const SECRET = 'a secret of no less than 32 bytes';

/** A token, signed with `secret`. */
function token(claims, secret = SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const later = () => Math.floor(Date.now() / 1000) + 3600;

test('calls authenticate and admits the clients that it accepts', async (t) => {
  const asked = [];
  const server = await startServer(t, {
    async authenticate(credentials) {
      asked.push(credentials);
      await new Promise(setImmediate);
      return credentials.token === 'sésame\n"';
    },
  });
  const client = await startClient(t, server, 'a', {
    token: 'sésame\n"',
    headers: { 'X-Key': 'value' },
  });
  const heard = once(client, 'message');
  client.send(1, 'a');
  t.is((await heard)[0], 1);
  const [{ headers, ...shown }] = asked;
  t.is(headers['x-key'], 'value');
  t.true(headers['user-agent'] === undefined || typeof headers['user-agent'] === 'string');
  const remoteAddress = '127.0.0.1';
  t.deepEqual(shown, {
    context: undefined,
    id: 'a',
    token: 'sésame\n"',
    url: '/',
    remoteAddress,
    secure: false,
    certificate: undefined,
  });
});

test('refuses clients that authenticate does not accept, with a reason', async (t) => {
  const denied = [];
  const faults = [];
  const refusal = (code, message) => Object.assign(new Error(message), { code });
  const answers = {
    false: () => false,
    nothing: () => undefined,
    truthy: () => 1,
    rejects: () => Promise.reject(new Error('database: password is hunter2')),
    throws() {
      throw new TypeError('a fault');
    },
    wrong: () => ({ send: 5 }),
    unauthorized: () => Promise.reject(refusal('ERR_WSMB_UNAUTHORIZED', 'log in again')),
    forbidden: () => Promise.reject(refusal('ERR_WSMB_FORBIDDEN', 'é'.repeat(100))),
    never: () => new Promise(() => {}),
  };
  const server = await startServer(t, {
    authenticate: ({ id }) => answers[id](),
    // Long enough on a busy machine for every result but the one that never arrives.
    authenticateTimeout: 2000,
  });
  server.on('denied', (id, error) => denied.push([id, error.code, error.message]));
  server.on('error', (error) => faults.push(error.message));
  for (const id of Object.keys(answers)) {
    const { closed } = connect(t, server, id);
    const expected =
      id === 'forbidden' ? ['ERR_WSMB_FORBIDDEN', 4403] : ['ERR_WSMB_UNAUTHORIZED', 4401];
    t.deepEqual(await closed, expected, id);
  }
  t.is(server.stats().denied, 9);
  const reasons = Object.fromEntries(denied.map(([id, , reason]) => [id, reason]));
  t.is(reasons.unauthorized, 'log in again');
  t.is(reasons.forbidden, 'é'.repeat(60));
  t.is(reasons.rejects, 'not authenticated');
  t.is(faults.length, 4);
  t.deepEqual(faults.slice(1, 3), ['database: password is hunter2', 'a fault']);
});

test('accepts only true or a plain object with the members of a grant', async (t) => {
  class Session {
    send = 'b';
  }
  const given = {
    'an empty array': [],
    'an array': [{ send: 'b' }],
    'an error': new Error('no'),
    'a result': { ok: false },
    'a map': new Map([['send', 'b']]),
    'a typing error': { sends: ['b'] },
    'what is not enumerable': Object.defineProperty({}, 'user', { value: 1 }),
    'a symbol': { [Symbol('user')]: 1 },
    'an instance': new Session(),
    'an heir': Object.create({ send: 'b' }),
    'a date': new Date(),
    'a function': () => true,
    'a text': 'yes',
    'a number': 1,
    'a Boolean object': new Boolean(true),
  };
  const server = await startServer(t, { authenticate: ({ id }) => given[id] });
  const faults = [];
  server.on('error', (error) => faults.push(error));
  for (const id of Object.keys(given)) {
    const { closed } = connect(t, server, id);
    t.deepEqual(await closed, ['ERR_WSMB_UNAUTHORIZED', 4401], id);
    t.true(faults.pop() instanceof TypeError, id);
  }
  t.is(faults.length, 0);
});

test('names the invalid value that authenticate returned', async (t) => {
  const given = [[], { sends: 'b' }, new Map(), 'yes', Object.create({ a: 1 })];
  const server = await startServer(t, { authenticate: ({ id }) => given[Number(id)] });
  const faults = [];
  server.on('error', (error) => faults.push(error.message));
  for (const id of given.keys()) {
    await connect(t, server, String(id)).closed;
  }
  for (const [n, name] of ['Array', '"sends"', 'Map', 'string', 'not a plain object'].entries()) {
    t.true(faults[n].includes(name), faults[n]);
  }
});

test('accepts true and any plain object, also one without a prototype', async (t) => {
  const foreign = vm.runInNewContext('({ send: ["a"] })');
  const plain = [{}, { __proto__: null, send: [] }, { principal: 7 }, { send: undefined }];
  const given = [true, ...plain, foreign];
  const server = await startServer(t, { authenticate: ({ id }) => given[Number(id)] });
  for (const id of given.keys()) {
    await startClient(t, server, String(id));
  }
  t.is(server.stats().registered, given.length);
});

test('survives anything that authenticate throws or returns, and continues to authenticate clients', async (t) => {
  const unreadable = (code, message) => Object.defineProperty({ code }, 'message', message);
  const trap = new Proxy(
    {},
    {
      get() {
        throw new Error('trap');
      },
      getPrototypeOf() {
        throw new Error('trap');
      },
    },
  );
  const answers = {
    prototypeless: () => {
      throw unreadable('ERR_WSMB_UNAUTHORIZED', { value: Object.create(null) });
    },
    getter: () => {
      throw unreadable('ERR_WSMB_FORBIDDEN', {
        get() {
          throw new Error('no message');
        },
      });
    },
    trapThrown: () => {
      throw trap;
    },
    trap: () => trap,
    undefined: () => Promise.reject(),
    null: () => Promise.reject(null),
    sparse: () => ({ send: new Array(2) }),
    // Returns a different value on each read.
    fickle: () => ({ send: Object.defineProperty([], 0, { get: fickle, enumerable: true }) }),
    constructor: () => Object.create({ constructor: Object.create(null) }),
  };
  let looks = 0;
  const fickle = () => {
    looks += 1;
    return looks === 1 ? 'b' : {};
  };
  const unhandled = [];
  const hear = (error) => unhandled.push(error);
  process.on('unhandledRejection', hear);
  t.teardown(() => process.off('unhandledRejection', hear));
  const server = await startServer(t, {
    authenticate: ({ id }) => answers[id](),
    authenticateTimeout: 60_000,
  });
  const faults = [];
  server.on('error', (error) => faults.push(error));
  for (const id of Object.keys(answers).filter((id) => id !== 'fickle')) {
    const { closed } = connect(t, server, id);
    t.deepEqual(await closed, ['ERR_WSMB_UNAUTHORIZED', 4401], id);
  }
  await startClient(t, server, 'fickle');
  t.is(faults.length, Object.keys(answers).length - 1);
  t.true(faults.every((fault) => fault !== undefined && fault !== null));
  t.deepEqual(unhandled, []);
});

test('refuses an empty principal, which unrelated clients would share', async (t) => {
  const principals = [null, {}, true, '', Number.NaN, Number.POSITIVE_INFINITY, 5n, []];
  const server = await startServer(t, {
    authenticate: ({ id }) => ({ principal: principals[Number(id)] }),
  });
  const faults = [];
  server.on('error', (error) => faults.push(error.constructor));
  for (const id of principals.keys()) {
    const { closed } = connect(t, server, String(id));
    t.deepEqual(await closed, ['ERR_WSMB_UNAUTHORIZED', 4401]);
  }
  t.deepEqual(
    faults,
    principals.map(() => TypeError),
  );
});

test('a grant limits principal, receivers and time', async (t) => {
  const server = await startServer(t, {
    authenticate: ({ id, token: principal }) => ({
      principal,
      send: id === 'limited' ? 'friend-*' : undefined,
      expires: id === 'short' ? new Date(Date.now() + 300) : undefined,
    }),
  });
  const errors = [];
  server.on('error', (error) => errors.push(error.code));
  const limited = await startClient(t, server, 'limited', { token: 'one' });
  const friend = await startClient(t, server, 'friend-1', { token: 'two' });
  const heard = once(friend, 'message');
  limited.send('no', ['friend-1', 'other']);
  limited.send('yes', 'friend-1');
  t.is((await heard)[0], 'yes');
  t.deepEqual(errors, ['ERR_WSMB_FORBIDDEN']);
  const thief = connect(t, server, 'friend-1', { token: 'one' });
  t.deepEqual(await thief.closed, ['ERR_WSMB_CONFLICT', 4409]);
  const short = connect(t, server, 'short', { token: 'three' });
  t.deepEqual(await short.closed, ['registered', 'ERR_WSMB_UNAUTHORIZED', 4401]);
});

test('a register frame on an open connection renews its grant', async (t) => {
  let asked = 0;
  const server = await startServer(t, {
    authenticate: () => {
      asked += 1;
      return { expires: Date.now() + (asked === 1 ? 400 : 3_600_000) };
    },
  });
  const client = await startClient(t, server, 'a', { token: 'first' });
  const renewed = once(client, 'registered');
  client.register('second');
  await renewed;
  await new Promise((resolve) => setTimeout(resolve, 600));
  const heard = once(client, 'message');
  client.send(1, 'a');
  t.is((await heard)[0], 1);
});

test('verifies tokens without calling JavaScript', async (t) => {
  const server = await startServer(t, { jwt: { secret: SECRET, issuer: 'us' } });
  const good = { sub: 'a', iss: 'us', exp: later() };
  await startClient(t, server, 'a', { token: token(good) });
  for (const [claims, secret, expected] of [
    [{ ...good, sub: 'b' }, SECRET, ['ERR_WSMB_FORBIDDEN', 4403]],
    [{ ...good, iss: 'them' }, SECRET, ['ERR_WSMB_UNAUTHORIZED', 4401]],
    [{ ...good, exp: 1 }, SECRET, ['ERR_WSMB_UNAUTHORIZED', 4401]],
    [{ ...good, exp: undefined }, SECRET, ['ERR_WSMB_UNAUTHORIZED', 4401]],
    [good, `${SECRET}!`, ['ERR_WSMB_UNAUTHORIZED', 4401]],
  ]) {
    const { closed } = connect(t, server, 'a', { token: token(claims, secret) });
    t.deepEqual(await closed, expected, JSON.stringify(claims));
  }
  const none = connect(t, server, 'a');
  t.deepEqual(await none.closed, ['ERR_WSMB_UNAUTHORIZED', 4401]);
});

test('setJwt applies to new registrations, and a failed call changes nothing', async (t) => {
  const next = `${SECRET}, the next one`;
  const server = await startServer(t, { jwt: { secret: SECRET } });
  const claims = { sub: 'a', exp: later() };
  const old = await startClient(t, server, 'a', { token: token(claims) });
  server.setJwt({ secret: next });
  const refused = connect(t, server, 'a', { token: token(claims) });
  t.deepEqual(await refused.closed, ['ERR_WSMB_UNAUTHORIZED', 4401]);
  const code = { code: 'ERR_WSMB_OPTION' };
  for (const jwt of [{}, { secret: 'short' }, { publicKey: 'no PEM' }, { secret: next, x: 1 }, 1]) {
    t.throws(() => server.setJwt(jwt), code);
  }
  // The open connection goes on, and is renewed by the new key only.
  const echo = once(old, 'message');
  old.send('still here', 'a');
  t.is((await echo)[0], 'still here');
  const renewed = once(server, 'registered');
  old.register(token(claims, next));
  t.is((await renewed)[0], 'a');
  await startClient(t, server, 'b', { token: token({ ...claims, sub: 'b' }, next) });
  const { publicKey } = generateKeyPairSync('ed25519');
  server.setJwt({ publicKey: publicKey.export({ type: 'spki', format: 'pem' }) });
  const other = connect(t, server, 'c', { token: token({ ...claims, sub: 'c' }, next) });
  t.deepEqual(await other.closed, ['ERR_WSMB_UNAUTHORIZED', 4401]);
  const plain = await startServer(t);
  const { message } = t.throws(() => plain.setJwt({ secret: SECRET }), code);
  t.is(message, 'option "jwt" cannot be set: the server was started without it');
  await server.close();
  t.throws(() => server.setJwt({ secret: SECRET }), { code: 'ERR_WSMB_NOT_OPEN' });
});

test('accepts a public key, and a subject that is a pattern', async (t) => {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'EdDSA' })}.${part({ sub: 'sensor-*' })}`;
  const { sign } = require('node:crypto');
  const signed = `${text}.${sign(null, Buffer.from(text), privateKey).toString('base64url')}`;
  const pem = publicKey.export({ type: 'spki', format: 'pem' });
  const jwt = { publicKey: Buffer.from(pem), subject: 'pattern', requireExp: false };
  const server = await startServer(t, { jwt });
  await startClient(t, server, 'sensor-1', { token: signed });
  const { closed } = connect(t, server, 'actor-1', { token: signed });
  t.deepEqual(await closed, ['ERR_WSMB_FORBIDDEN', 4403]);
});

test('rejects invalid options', (t) => {
  for (const [options, pattern, type] of [
    [{ authenticate: true }, /authenticate/, TypeError],
    [{ authenticate() {}, jwt: { secret: SECRET } }, /exclude/, TypeError],
    [{ jwt: {} }, /secret/, TypeError],
    [{ jwt: { secret: SECRET, publicKey: 'x' } }, /secret/, TypeError],
    [{ jwt: { secret: 'short' } }, /jwt\.secret/, RangeError],
    [{ jwt: { publicKey: 'no PEM' } }, /jwt\.publicKey/, RangeError],
    [{ jwt: { secret: SECRET, algorithms: ['none'] } }, /jwt\.algorithms/, RangeError],
    [{ jwt: { secret: SECRET, algorithms: ['RS256'] } }, /jwt\.algorithms/, RangeError],
    [{ jwt: { secret: SECRET, audience: 5 } }, /jwt\.audience/, TypeError],
    [{ jwt: { secret: SECRET, audience: [5] } }, /jwt\.audience/, TypeError],
    [{ jwt: { secret: SECRET, audience: [] } }, /jwt\.audience/, RangeError],
    [{ jwt: { secret: SECRET, issuer: [] } }, /jwt\.issuer/, RangeError],
    [{ jwt: { secret: SECRET, issuer: '' } }, /jwt\.issuer/, RangeError],
    [{ jwt: { secret: SECRET, issuer: ['us', ''] } }, /jwt\.issuer/, RangeError],
    [{ jwt: { secret: SECRET, leeway: 0.5 } }, /jwt\.leeway/, RangeError],
    [{ jwt: { secret: SECRET, hello: 5 } }, /jwt\.hello/, TypeError],
    [{ allowedOrigins: 'x' }, /allowedOrigins/, TypeError],
    [{ allowedOrigins: ['example.org/path'] }, /allowedOrigins/, RangeError],
    [{ rateLimit: 5 }, /rateLimit/, TypeError],
    [{ rateLimit: { messages: 'x' } }, /rateLimit\.messages/, TypeError],
    [{ slowConsumer: 'kick' }, /slowConsumer/, TypeError],
    [{ authenticate() {}, authenticateTimeout: 0 }, /authenticateTimeout/, RangeError],
    [{ authenticateTimeout: 0 }, /authenticateTimeout/, RangeError],
    [{ authenticateTimeout: 1e15 }, /authenticateTimeout/, RangeError],
    [{ jwt: { secret: SECRET }, authenticateTimeout: 0 }, /authenticateTimeout/, RangeError],
  ]) {
    const error = t.throws(() => new WSMsgBroker.Server({ port: 0, ...options }));
    t.is(error.code, 'ERR_WSMB_OPTION');
    t.true(error instanceof type, error.message);
    t.regex(error.message, pattern);
  }
  for (const [options, pattern] of [
    [{ token: 5 }, /token/],
    [{ headers: { a: 5 } }, /headers/],
    [{ headers: { 'a b': 'x' } }, /headers/],
    [{ headers: { 'Sec-WebSocket-Key': 'x' } }, /headers/],
  ]) {
    const error = t.throws(() => new WSMsgBroker('a', '127.0.0.1', 1, '/', options));
    t.is(error.code, 'ERR_WSMB_OPTION');
    t.regex(error.message, pattern);
  }
});

test('an error of `authenticate` without an error listener is one warning', async (t) => {
  const warned = [];
  const listener = ({ code, message }) => {
    if (code === 'WSMB_AUTHENTICATE') warned.push(message);
  };
  process.on('warning', listener);
  t.teardown(() => process.removeListener('warning', listener));
  const server = await startServer(t, {
    authenticate: () => {
      throw new TypeError('undefined is not a database');
    },
  });
  for (let n = 0; n < 2; n += 1) {
    const client = new WSMsgBroker('a', '127.0.0.1', server.address().port);
    await t.throwsAsync(client.connected(), { code: 'ERR_WSMB_UNAUTHORIZED' });
    await client.close();
  }
  t.is(warned.length, 1);
  t.regex(warned[0], /undefined is not a database/);
});
