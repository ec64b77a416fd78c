'use strict';

// 1.7.2 and 2.0 on the same wire: clients of either version, and of both, on a server of the other version,
// with the whole protocol and a crash of the server.
//
// npm install --ignore-scripts --prefix __test__/original
// npx ava __test__/interop.test.js

const test = require('ava');
const { original, subject } = require('./differential/implementations');
const { Stage } = require('./differential/stage');

const TIMEOUT_MS = 60_000;
// The delay before a 1.x program reconnects, ms.
const RECONNECT_MS = 25;
const DEATHS = 3;

const VERSIONS = { old: original, new: subject };
const MIXES = [
  ['new', 'old', 'old'],
  ['new', 'old', 'new'],
  ['new', 'new', 'old'],
  ['old', 'new', 'new'],
  ['old', 'old', 'new'],
  ['old', 'new', 'old'],
];

// A test for each mix of versions: a server and two clients a and b.
function interop(title, body) {
  for (const [ofServer, ofA, ofB] of MIXES) {
    test.serial(`${title} (${ofServer} server, ${ofA} and ${ofB} clients)`, async (t) => {
      t.timeout(2 * TIMEOUT_MS);
      const broker = new Stage(VERSIONS[ofServer]);
      // Clients of both versions log to one recording.
      const clients = new Stage();
      const join = (version, id, port, name = id) => {
        const client = new VERSIONS[version].WSMsgBroker(id, '127.0.0.1', port);
        return clients.watchClient(client, name);
      };
      let timer;
      const late = new Promise((_, reject) => {
        const say = () => new Error(`clients: ${clients.stuck()}; server: ${broker.stuck()}`);
        timer = setTimeout(() => reject(say()), TIMEOUT_MS);
      });
      try {
        await Promise.race([body(t, { broker, clients, join, ofA, ofB, ofServer }), late]);
      } finally {
        clearTimeout(timer);
        clients.end();
        broker.end();
      }
    });
  }
}

// A server in this process, with clients a and b registered.
async function both({ broker, clients, join, ofA, ofB }) {
  const server = await broker.server();
  const a = join(ofA, 'a', server.port);
  const b = join(ofB, 'b', server.port);
  await clients.until('a', 'registered');
  await clients.until('b', 'registered');
  return { server, a, b };
}

// Entries of one event of a client or a server.
const of = (stage, who, event) =>
  (stage.recording()[who] || []).filter(([name]) => name === event).map(([, ...rest]) => rest);

interop('clients register, unregister and close', async (t, scene) => {
  const { broker, clients } = scene;
  const { a, b } = await both(scene);
  a.unregister();
  await clients.until('a', 'unregistered');
  b.close();
  await clients.until('b', 'close');
  await broker.until('server', 'unregistered', 2);
  t.deepEqual(clients.recording(), {
    a: [['open'], ['registered'], ['unregistered', 'a']],
    b: [['open'], ['registered'], ['close', 1000]],
  });
  t.deepEqual(of(broker, 'server', 'registered').flat().sort(), ['a', 'b']);
  t.deepEqual(of(broker, 'server', 'unregistered'), [['a'], ['b']]);
});

interop('messages arrive in order in both directions', async (t, scene) => {
  const { clients } = scene;
  const { a, b } = await both(scene);
  for (let number = 0; number < 100; number++) {
    a.send({ number, of: 'a' }, 'b');
    b.send([number, 'of b é 😀'], 'a');
  }
  await clients.until('a', 'message', 100);
  await clients.until('b', 'message', 100);
  of(clients, 'a', 'message').forEach(([message], number) => {
    t.deepEqual(message, [number, 'of b é 😀']);
  });
  of(clients, 'b', 'message').forEach(([message], number) => {
    t.deepEqual(message, { number, of: 'a' });
  });
});

interop('a message goes to many receivers, with a warning for unknown ones', async (t, scene) => {
  const { broker, clients } = scene;
  const { a } = await both(scene);
  a.send('m', ['nobody', 'b', 'a', 'b']);
  await clients.until('a', 'message');
  await clients.until('b', 'message', 2);
  await broker.until('server', 'warn');
  t.deepEqual(of(broker, 'server', 'warn'), [
    ['<Error: Unable to send message. Client "nobody" unknown>'],
  ]);
});

interop('requests are answered in both roles', async (t, scene) => {
  const { clients } = scene;
  const { a, b } = await both(scene);
  for (const client of [a, b]) {
    client.on('message', (message, response) => {
      if (response) response.send({ answer: message, of: client.id });
    });
  }
  a.send('of a', 'b', (...args) => clients.log('answers', ...args));
  b.send('of b', ['a'], (...args) => clients.log('answers', ...args));
  await clients.until('answers', 'a');
  await clients.until('answers', 'b');
  t.deepEqual(of(clients, 'answers', 'b'), [[{ answer: 'of a', of: 'b' }]]);
  t.deepEqual(of(clients, 'answers', 'a'), [[{ answer: 'of b', of: 'a' }]]);
});

interop('only the fastest of many answers is delivered', async (t, scene) => {
  const { clients } = scene;
  const { a, b } = await both(scene);
  const waiting = [];
  for (const client of [a, b]) {
    client.on('message', (_, response) => response && waiting.push(() => response.send(client.id)));
  }
  a.send('who', ['b', 'a'], (from, answer) => clients.log('answers', 'answer', from === answer));
  await clients.until('a', 'message');
  await clients.until('b', 'message');
  for (const answer of waiting) answer();
  await clients.until('answers', 'answer');
  // Late answers have been dropped once these messages have arrived on the same connection.
  a.send('behind', 'b');
  b.send('behind', 'a');
  await clients.until('a', 'message', 2);
  await clients.until('b', 'message', 2);
  t.deepEqual(clients.recording().answers, [['answer', true]]);
  t.deepEqual(of(clients, 'a', 'error'), []);
});

interop('answers of undefined and of falsy values', async (t, scene) => {
  const { clients } = scene;
  const { a, b } = await both(scene);
  const answers = [null, '', 0, false, undefined];
  b.on('message', (index, response) => response.send(answers[index]));
  answers.forEach((_, index) => {
    a.send(index, 'b', (_from, answer) => clients.log('answers', 'answer', index, answer));
  });
  await clients.until('answers', 'answer', 4);
  await clients.until('a', 'error');
  t.deepEqual(of(clients, 'answers', 'answer'), [
    [0, null],
    [1, ''],
    [2, 0],
    [3, false],
  ]);
});

interop('a newer client takes over an id', async (t, scene) => {
  const { clients, join, ofB } = scene;
  const { server, a } = await both(scene);
  join(ofB, 'b', server.port, 'newer b');
  await clients.until('newer b', 'registered');
  a.send('for the newest', 'b');
  await clients.until('newer b', 'message');
  t.deepEqual(of(clients, 'b', 'message'), []);
});

interop('a client that unregistered sends without an id and is not reachable', async (t, scene) => {
  const { broker, clients } = scene;
  const { a, b } = await both(scene);
  a.unregister();
  await clients.until('a', 'unregistered');
  a.send('from nobody', 'b');
  await clients.until('b', 'message');
  b.send('to nobody', 'a');
  await broker.until('server', 'warn');
  t.deepEqual(of(clients, 'a', 'message'), []);
});

interop('a message of a megabyte passes in both directions', async (t, scene) => {
  const { clients } = scene;
  const { a, b } = await both(scene);
  const text = 'é 😀 x'.repeat(150_000);
  b.removeAllListeners('message');
  b.on('message', (message, response) => response.send(message + message));
  a.send(text, 'b', (_, answer) => clients.log('answers', 'answer', answer === text + text));
  await clients.until('answers', 'answer');
  t.deepEqual(clients.recording().answers, [['answer', true]]);
});

interop('a closing server closes its clients', async (t, scene) => {
  const { broker, clients, ofServer } = scene;
  const { server } = await both(scene);
  server.close();
  await clients.until('a', 'close');
  await clients.until('b', 'close');
  await broker.until('server', 'unregistered', 2);
  const code = VERSIONS[ofServer] === original ? 1006 : 1001;
  for (const id of ['a', 'b']) {
    t.deepEqual(
      of(clients, id, 'close').map(([first]) => first),
      [code],
    );
  }
});

interop('clients reconnect when a server was killed and restarted', async (t, scene) => {
  const { broker, clients, ofA, ofB } = scene;
  const port = await broker.freePort();
  const start = (life) => broker.command([port], `life ${life}`);

  // As 1.x programs do it: a new client after each close event.
  const current = {};
  const keep = (version, id) => {
    const client = new VERSIONS[version].WSMsgBroker(id, '127.0.0.1', port);
    clients.cleanup(() => client.close());
    current[id] = client;
    client.on('registered', () => clients.log(id, 'registered'));
    client.on('message', (message, response) => {
      clients.log(id, 'message', message);
      if (response) response.send(`${message} heard by ${id}`);
    });
    // Connections are refused while the server is down, and lost without an error when it is killed.
    client.on('error', () => {});
    client.on('close', () => {
      clients.log(id, 'closed');
      if (!keep.stopped) setTimeout(() => keep(version, id), RECONNECT_MS);
    });
  };
  clients.cleanup(() => {
    keep.stopped = true;
  });

  let process = start(0);
  keep(ofA, 'a');
  keep(ofB, 'b');
  for (let life = 1; life <= DEATHS; life++) {
    await clients.until('a', 'registered', life);
    await clients.until('b', 'registered', life);
    current.a.send(`life ${life}`, 'b', (from, answer) => clients.log('answers', from, answer));
    current.b.send(`life ${life}`, 'a', (from, answer) => clients.log('answers', from, answer));
    await clients.until('answers', 'a', life);
    await clients.until('answers', 'b', life);
    if (life === DEATHS) break;
    process.kill('SIGKILL');
    await broker.until(`life ${life - 1}`, 'ends');
    process = start(life);
  }
  const lives = Array.from({ length: DEATHS }, (_, life) => `life ${life + 1}`);
  t.deepEqual(of(clients, 'a', 'message').flat(), lives);
  t.deepEqual(of(clients, 'b', 'message').flat(), lives);
  t.deepEqual(
    of(clients, 'answers', 'b').flat(),
    lives.map((life) => `${life} heard by b`),
  );
  t.deepEqual(
    of(clients, 'answers', 'a').flat(),
    lives.map((life) => `${life} heard by a`),
  );
});
