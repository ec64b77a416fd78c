'use strict';

// Clients at the edges of a program: options, states, timers, signals, tokens and ends.

const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const { WebSocket, WebSocketServer } = require('ws');
const Browser = require('../lib/browser');
const listen = require('./support/listen');
const { WSMsgBroker, startServer } = require('./support/start');
const { kinds, urlOf, open, join, failure, awaited } = require('./support/clients');

const QUICK = { minDelay: 5, maxDelay: 20 };

/** A server that accepts TCP connections and never answers. */
async function startSilent(t) {
  const server = net.createServer();
  await listen(t, server);
  return server;
}

/** A JWT without a valid signature that expires after so many seconds. */
function tokenFor(seconds) {
  const claims = { exp: Date.now() / 1000 + seconds };
  const payload = Buffer.from(JSON.stringify(claims)).toString('base64url');
  return `e30.${payload}.x`;
}

/** Runs a program with the package; resolves with its exit code and output. */
async function run(t, program) {
  const child = spawn(process.execPath, ['-e', program], { cwd: path.join(__dirname, '..') });
  t.teardown(() => child.kill('SIGKILL'));
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += text;
    });
  }
  const [code] = await once(child, 'close');
  return [code, output.trim()];
}

for (const kind of kinds) {
  test(`${kind}: options of a call are checked, with the name that is meant`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const calls = [
      () => client.request(1, 'a', { timeOut: 100 }),
      () => client.request(1, 'a', { timeout: '5s' }),
      () => client.request(1, 'a', { timeout: 0 }),
      () => client.request(1, 'a', { timeout: Number.NaN }),
      () => client.request(1, 'a', 100),
      () => client.request(1, 'a', [100]),
      () => client.requestAll(1, ['a'], { count: 0 }),
      () => client.requestAll(1, ['a'], { waitFor: 10 }),
      () => client.deliver(1, 'a', { signal: {} }),
      () => client.deliver(1, 'a', { waitFor: -1 }),
      () => client.connected({ timeout: -1 }),
      async () => client.messages({ highwatermark: 1 }),
      async () => client.messages(5),
    ];
    for (const call of calls) {
      t.is((await failure(call())).code, 'ERR_WSMB_OPTION', String(call));
    }
    t.regex((await failure(calls[0]())).message, /did you mean "timeout"/);
    t.is(awaited(client), 0);
  });

  test(`${kind}: ids may be numbers in every call`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const seven = await join(t, kind, server, 7);
    seven.handle((message) => message);
    const received = [];
    seven.on('message', (message) => received.push(message));
    client.send('one', 7);
    client.send('many', [7]);
    t.is((await client.request('asked', 7)).message, 'asked');
    t.deepEqual(received, ['one', 'many', 'asked']);
    t.deepEqual((await client.deliver('x', [7])).delivered, ['7']);
  });

  test(`${kind}: waitFor tries until its end`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const begin = performance.now();
    t.is((await failure(client.request(1, 'late', { waitFor: 300 }))).code, 'UNKNOWN_ID');
    t.true(performance.now() - begin >= 299);
  });

  test(`${kind}: options may take the place of the path`, async (t) => {
    const server = await startServer(t);
    const { port } = server.address();
    const options = { maxQueued: 10 };
    const Class = kind === 'addon' ? WSMsgBroker : Browser;
    const others = kind === 'addon' ? { protocol: 2 } : { WebSocket };
    const client = new Class('a', '127.0.0.1', port, { ...options, ...others });
    t.teardown(() => client.close());
    await client.connected();
    t.throws(() => client.send('too long for it', 'a'), { code: 'ERR_WSMB_MAX_QUEUED' });
    t.throws(() => new Class('a', '127.0.0.1', port, { maxQueud: 1 }), { code: 'ERR_WSMB_OPTION' });
  });

  test(`${kind}: connected() ends by its timeout and its signal, and the client goes on`, async (t) => {
    const silent = await startSilent(t);
    const client = open(t, kind, 'a', urlOf(silent), { reconnect: QUICK });
    client.on('error', () => {});
    t.is(client.state, 'connecting');
    t.is((await failure(client.connected({ timeout: 20 }))).code, 'TIMEOUT');
    const control = new AbortController();
    const wait = failure(client.connected({ signal: control.signal }));
    control.abort();
    t.is((await wait).code, 'ABORT_ERR');
    t.is((await failure(client.connected({ signal: control.signal }))).code, 'ABORT_ERR');
    t.is(client.state, 'connecting');
    await client.close();
    t.is(client.state, 'closed');
  });

  test(`${kind}: a client shows its state, and reconnectNow() ends a wait`, async (t) => {
    const first = await startServer(t);
    const { port } = first.address();
    const reconnect = { minDelay: 3_600_000, maxDelay: 3_600_000, jitter: 0 };
    const client = open(t, kind, 'a', urlOf(first), { reconnect });
    await client.connected();
    t.is(client.state, 'registered');
    client.unregister();
    await once(client, 'unregistered');
    t.is(client.state, 'open');
    const lost = once(client, 'reconnecting');
    await first.close();
    const [, , error] = await lost;
    t.deepEqual([error.closeCode, error.reason], [1001, 'server is closing']);
    t.is(client.state, 'reconnecting');
    const second = new WSMsgBroker.Server({ port, host: '127.0.0.1' });
    t.teardown(() => second.close());
    await once(second, 'listening');
    client.reconnectNow();
    client.reconnectNow();
    await client.connected();
    await client.close();
    client.reconnectNow();
    t.is(client.state, 'closed');
  });

  test(`${kind}: an answer that has arrived comes before an overdue timeout`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const echo = `
      const B = require('./index.js');
      const worker = new B('worker', '${urlOf(server)}', { protocol: 2 });
      let count = 0;
      worker.handle((message) => {
        count += 1;
        if (count === 10) require('fs').writeFileSync(process.argv[1], '');
        return message;
      });
      worker.connected().then(() => console.log('ready'));
      process.stdin.on('end', () => process.exit()).resume();`;
    const done = path.join(os.tmpdir(), `wsmsgbroker-${process.pid}-${kind}-answered`);
    const child = spawn(process.execPath, ['-e', echo, done], { cwd: path.join(__dirname, '..') });
    t.teardown(() => {
      child.kill('SIGKILL');
      fs.rmSync(done, { force: true });
    });
    await once(child.stdout, 'data');
    const answers = Array.from({ length: 10 }, (_, n) =>
      client.request(n, 'worker', { timeout: 300 }),
    );
    // The frames leave at the end of this tick.
    await new Promise(setImmediate);
    // The event loop is blocked until the broker has passed on all answers, and then for a time in which they arrive.
    while (!fs.existsSync(done) || server.stats().pending > 0);
    const end = Date.now() + 1000;
    while (Date.now() < end);
    t.deepEqual(
      (await Promise.all(answers)).map(({ message }) => message),
      Array.from({ length: 10 }, (_, n) => n),
    );
  });

  test(`${kind}: many requests share a signal without a warning`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    await join(t, kind, server, 'silent');
    const warnings = [];
    const warn = (warning) => warnings.push(warning.name);
    process.on('warning', warn);
    t.teardown(() => process.off('warning', warn));
    const control = new AbortController();
    const options = { signal: control.signal };
    const requests = Array.from({ length: 20 }, () =>
      failure(client.request(1, 'silent', options)),
    );
    await new Promise(setImmediate);
    control.abort();
    for (const { code } of await Promise.all(requests)) t.is(code, 'ABORT_ERR');
    await new Promise(setImmediate);
    t.deepEqual(warnings, []);
    t.is(awaited(client), 0);
  });

  test(`${kind}: waitFor repeats a request or a delivery until the receiver is there`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    await join(t, kind, server, 'present');
    const options = { waitFor: 20_000 };
    const request = client.request(1, 'late', options);
    const receipt = client.deliver('to both', ['present', 'late'], options);
    const aborted = new AbortController();
    const never = failure(client.deliver(1, 'never', { ...options, signal: aborted.signal }));
    await new Promise((resolve) => setTimeout(resolve, 120));
    const late = open(t, kind, 'late', urlOf(server));
    const heard = [];
    late.handle((message) => {
      heard.push(message);
      return 'here';
    });
    t.deepEqual(await request, { from: 'late', message: 'here' });
    const { delivered, failed } = await receipt;
    t.deepEqual([delivered.sort(), failed.size], [['late', 'present'], 0]);
    // The receipt may come before the message.
    while (heard.length < 2) await new Promise(setImmediate);
    t.deepEqual(heard.sort(), [1, 'to both']);
    aborted.abort();
    t.is((await never).code, 'ABORT_ERR');
    t.is((await failure(client.request(1, 'never', { waitFor: 60 }))).code, 'UNKNOWN_ID');
    const missing = await client.deliver(1, ['never'], { waitFor: 60 });
    t.is(missing.failed.get('never').code, 'UNKNOWN_ID');
    t.is(awaited(client), 0);
  });

  test(`${kind}: close() during any phase of connecting emits close once, and no error`, async (t) => {
    const silent = await startSilent(t);
    const gone = await startSilent(t);
    const address = urlOf(gone);
    gone.close();
    await once(gone, 'close');
    const ends = [
      (client) => client.close(),
      async (client) => {
        await new Promise(process.nextTick);
        await client.close();
      },
      async (client) => {
        await new Promise((resolve) => setTimeout(resolve, 20));
        await client.close();
      },
    ];
    for (const reconnect of [false, QUICK]) {
      for (const url of [urlOf(silent), address, 'ws://name.invalid:1/']) {
        for (const end of ends) {
          const client = open(t, kind, 'a', url, { reconnect });
          const events = [];
          client.on('close', () => events.push('close'));
          let isClosing = false;
          client.on('error', () => events.push(isClosing ? 'late error' : 'error'));
          const { close } = client;
          client.close = () => {
            isClosing = true;
            return close.call(client);
          };
          await end(client);
          await new Promise((resolve) => setTimeout(resolve, 30));
          t.deepEqual(
            events.filter((event) => event !== 'error'),
            ['close'],
            `${url} ${end}`,
          );
        }
      }
    }
  });

  test(`${kind}: a token function that fails, or returns no string, fails an attempt`, async (t) => {
    const server = await startServer(t);
    const results = [
      () => null,
      () => 5,
      () => Promise.reject(new Error('no token')),
      () => new Promise(() => {}),
      () => 'token',
    ];
    let calls = 0;
    const token = () => {
      calls += 1;
      return results[Math.min(calls, results.length) - 1]();
    };
    const options = { token, reconnect: QUICK, connectTimeout: 50 };
    const client = open(t, kind, 'a', urlOf(server), options);
    const codes = [];
    client.on('reconnecting', (_attempt, _delay, error) => codes.push(error.code ?? error.message));
    await client.connected();
    // On a busy machine the last attempt, too, may take longer than the timeout.
    t.deepEqual(codes.slice(0, 4), ['ERR_WSMB_OPTION', 'ERR_WSMB_OPTION', 'no token', 'ETIMEDOUT']);
  });

  test(`${kind}: a grant is renewed before its token expires`, async (t) => {
    const server = await startServer(t);
    let calls = 0;
    const token = () => {
      calls += 1;
      return tokenFor(calls === 1 ? 5 : 3600);
    };
    const client = await join(t, kind, server, 'a', { token });
    let closed = false;
    client.on('close', () => {
      closed = true;
    });
    await once(client, 'registered');
    t.deepEqual([calls, closed, client.state], [2, false, 'registered']);
  });

  test(`${kind}: drain() waits for answers that take longer than the broker, and sends what is queued`, async (t) => {
    const server = await startServer(t);
    const client = open(t, kind, 'client', urlOf(server), { reconnect: true });
    const other = await join(t, kind, server, 'other');
    let finish;
    client.handle((message) => new Promise((done) => (finish = () => done(message))));
    await client.connected();
    const incoming = other.request('slow', 'client');
    while (!finish) await new Promise(setImmediate);
    const drained = client.drain();
    while (server.has('client')) await new Promise(setImmediate);
    // Longer than the broker may take to confirm that the id was given up.
    await new Promise((resolve) => setTimeout(resolve, 1300));
    t.is(client.state, 'open');
    finish();
    t.is((await incoming).message, 'slow');
    await drained;
    const early = open(t, kind, 'early', urlOf(server), { reconnect: true });
    const heard = new Promise((resolve) => other.on('message', resolve));
    early.send('queued', 'other');
    await early.drain();
    t.is(await heard, 'queued');
  });

  test(`${kind}: drain() answers what has arrived, waits for answers, and ends`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const other = await join(t, kind, server, 'other');
    const finish = [];
    const arrived = new Promise((resolve) => {
      client.handle((message) => {
        resolve();
        return new Promise((done) => finish.push(() => done(message)));
      });
    });
    other.handle((message) => new Promise((done) => finish.push(() => done(message))));
    const incoming = other.request('incoming', 'client');
    const outgoing = client.request('outgoing', 'other');
    await arrived;
    while (finish.length < 2) await new Promise(setImmediate);
    const drained = client.drain();
    t.is(client.drain(), drained);
    t.is((await failure(client.request(1, 'other'))).code, 'ERR_WSMB_NOT_OPEN');
    for (const end of finish) end();
    t.is((await outgoing).message, 'outgoing');
    t.is((await incoming).message, 'incoming');
    await drained;
    t.is(client.state, 'closed');
    t.is((await failure(other.request(1, 'client'))).code, 'UNKNOWN_ID');
  });
}

test('a client that names no protocol offers version 2, and behaves as 1.7.2', async (t) => {
  const server = await startServer(t);
  const client = new WSMsgBroker('client', urlOf(server));
  t.teardown(() => client.close());
  await client.connected();
  const errors = [];
  client.on('error', (error) => errors.push(error.code));
  t.is((await failure(client.request(1, 'nobody'))).code, 'UNKNOWN_ID');
  server.on('error', () => {});
  client.send('to no id', 7);
  client.send(undefined, 'a');
  while (client.peerErrors < 2) await new Promise(setImmediate);
  const refused = once(client, 'refused');
  client.send('to no id', 7);
  t.is((await refused)[0].code, 'ERR_WSMB_DEST');
  t.deepEqual([errors, client.peerErrors], [[], 3]);
  const successor = new WSMsgBroker('client', urlOf(server));
  t.teardown(() => successor.close());
  await once(client, 'replaced');
});

test('connected() rejects for an id that no broker accepts', async (t) => {
  const server = await startServer(t);
  server.on('error', () => {});
  for (const id of [undefined, null, '', 0, {}]) {
    const client = new WSMsgBroker(id, urlOf(server));
    t.is((await failure(client.connected())).code, 'ERR_WSMB_ID');
    await client.close();
  }
});

test('an error of an answer that JSON cannot represent has a code', async (t) => {
  const server = await startServer(t);
  const worker = await join(t, 'addon', server, 'worker');
  const client = new WSMsgBroker('client', urlOf(server));
  t.teardown(() => client.close());
  await client.connected();
  const caught = new Promise((resolve) => {
    worker.on('message', (_message, response) => {
      resolve(t.throws(() => response.send(10n), { instanceOf: TypeError }));
    });
  });
  client.send(1, 'worker', () => {});
  t.is((await caught).code, 'ERR_WSMB_MESSAGE');
  const circular = {};
  circular.self = circular;
  t.is(t.throws(() => client.send(circular, 'a')).code, 'ERR_WSMB_MESSAGE');
});

test('a closed connection tells its reason', async (t) => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.teardown(() => server.close());
  await once(server, 'listening');
  server.on('connection', (socket) => socket.once('message', () => socket.close(4000, 'enough')));
  for (const kind of kinds) {
    const client = open(t, kind, 'a', urlOf(server));
    t.deepEqual(await once(client, 'close'), [4000, 'enough']);
  }
});

test('a program ends by itself if its clients are unreferenced', async (t) => {
  const server = await startServer(t);
  const silent = await startSilent(t);
  for (const [url, options] of [
    [urlOf(server), {}],
    [urlOf(silent), {}],
    ['ws://127.0.0.1:1/', { reconnect: { minDelay: 3_600_000, maxDelay: 3_600_000 } }],
  ]) {
    const program = (last) => `
      const B = require('./index.js');
      const client = new B('client', '${url}', ${JSON.stringify(options)});
      client.on('error', () => {});
      client.unref()${last};
      setTimeout(() => console.log('waited'), 150);
      setTimeout(() => process.exit(7), 5000).unref();`;
    t.deepEqual(await run(t, program('')), [0, 'waited'], url);
  }
  const kept = `
    const B = require('./index.js');
    const client = new B('client', '${urlOf(server)}').unref().ref();
    setTimeout(() => process.exit(7), 300).unref();`;
  t.deepEqual(await run(t, kept), [7, '']);
});

test('fake timers of a test framework do not stop a client', async (t) => {
  const server = await startServer(t);
  const program = `
    const B = require('./index.js');
    const real = setImmediate;
    for (const name of ['setTimeout', 'clearTimeout', 'setInterval', 'setImmediate', 'queueMicrotask']) {
      globalThis[name] = () => {};
    }
    process.nextTick = () => {};
    const client = new B('client', '${urlOf(server)}', { reconnect: true });
    client.connected().then(async () => {
      await client.request(1, 'nobody').catch((error) => console.log(error.code));
      await client.request(1, 'client', { timeout: 20 }).catch((error) => console.log(error.code));
      await client.close();
    });`;
  t.deepEqual(await run(t, program), [0, 'UNKNOWN_ID\nTIMEOUT']);
});

test('pending requests end although the wall clock jumps', async (t) => {
  const server = await startServer(t);
  const program = `
    const B = require('./index.js');
    const client = new B('client', '${urlOf(server)}');
    const now = Date.now;
    client.connected().then(() => {
      client.on('message', (message, response) => response.send(message));
      let answered = 0;
      const finish = () => {
        answered += 1;
        if (answered === 2) client.close();
      };
      client.send(1, 'client', finish);
      Date.now = () => now() + 7_200_000;
      client.send(2, 'client', finish);
    });`;
  t.deepEqual(await run(t, program), [0, '']);
});
