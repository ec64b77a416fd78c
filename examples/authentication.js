'use strict';

// Authentication: a broker that calls a function of this program, and one that verifies JSON Web Tokens. Prints
// which clients are registered, which are refused and why, and how a client reconnects with a new token after a
// restart of the broker.

const { createHmac, randomBytes } = require('node:crypto');
const { once } = require('node:events');
const WSMsgBroker = require('wsmsgbroker');

/** Users by token. A real program stores hashes of tokens, or asks a login service. */
const USERS = new Map([
  ['token-of-ann', { name: 'ann', send: ['bob', 'bob-*'] }],
  // Bob may not send to any id. Answering needs no permission.
  ['token-of-bob', { name: 'bob', send: [] }],
]);

/** Every user may have the ids `name` and `name-...`, for an hour. */
async function authenticate({ id, token }) {
  const user = USERS.get(token);
  if (!user) {
    return false;
  }
  if (id !== user.name && !id.startsWith(`${user.name}-`)) {
    // With this code the client gets the message.
    throw Object.assign(new Error('that name is not yours'), { code: 'ERR_WSMB_FORBIDDEN' });
  }
  return { principal: user.name, send: user.send, expires: Date.now() + 3_600_000 };
}

/** Issues a JSON Web Token. */
function issue(claims, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

function connect(server, id, token, options) {
  const all = { protocol: 2, token, ...options };
  return new WSMsgBroker(id, '127.0.0.1', server.address().port, '/', all);
}

async function register(server, id, token, options) {
  const client = await connect(server, id, token, options).connected();
  console.log(`${id} is registered`);
  return client;
}

/** Connects a client that is refused, and prints the reason. */
async function refused(server, id, token) {
  const client = connect(server, id, token);
  const closed = new Promise((resolve) => client.on('close', resolve));
  const [error] = await once(client, 'error');
  console.log(`${id} is refused: ${await closed}, ${error.code}, ${error.message}`);
}

/** A broker that calls `authenticate`. */
async function withFunction() {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', authenticate });
  await server.ready;
  const ann = await register(server, 'ann', 'token-of-ann');
  const bob = await register(server, 'bob-phone', 'token-of-bob');
  await refused(server, 'eve', 'a guess');
  await refused(server, 'ann', 'token-of-bob');

  bob.on('message', (message, response) => response?.send(`${message}, Ann`));
  const answer = await ann.request('Hi', 'bob-phone');
  console.log(`bob-phone answers: ${answer.message}`);

  bob.send('Hi', 'ann');
  const [refusal] = await once(bob, 'error');
  console.log(`bob-phone may not send to ann: ${refusal.code}`);

  // Renews the grant before it expires, with the same token or another one.
  ann.register('token-of-ann');
  await once(ann, 'registered');
  console.log('ann has another hour');
  await server.close();
}

/** A broker that verifies tokens on its own threads, without JavaScript. */
async function withTokens() {
  const secret = randomBytes(32);
  const jwt = { secret, issuer: 'https://login.example.org', audience: 'broker' };
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', jwt });
  await server.ready;
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const claims = { sub: 'ann', iss: 'https://login.example.org', aud: 'broker', exp };
  await register(server, 'ann', issue(claims, secret));
  await refused(server, 'eve', issue(claims, secret));
  await refused(server, 'ann', issue(claims, randomBytes(32)));
  await refused(server, 'ann', issue({ ...claims, exp: 1 }, secret));

  // Short-lived tokens: the client calls the function for each connection.
  const fresh = () => issue({ ...claims, exp: Math.floor(Date.now() / 1000) + 60 }, secret);
  const ann = await register(server, 'ann', fresh, { reconnect: { minDelay: 50 } });
  const { port } = server.address();
  await server.close();
  const restarted = new WSMsgBroker.Server({ port, host: '127.0.0.1', jwt });
  await once(ann, 'reconnected');
  console.log('ann is back, with a fresh token');
  await ann.close();
  await restarted.close();
}

withFunction().then(withTokens);
