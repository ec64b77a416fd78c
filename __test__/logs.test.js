'use strict';

// The log of a server: its lines and their levels, its limits, and that it contains no secrets.

const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { createHmac } = require('node:crypto');
const { spawn } = require('node:child_process');
const diagnostics = require('node:diagnostics_channel');
const { on, once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const test = require('ava');
const WebSocket = require('ws');
const { EVENTS, LEVELS, levelsOf } = require('../lib/log/events');
const { NativeServer, ServerEventKind } = require('../lib/native');
const { authority } = require('../testkit/certificates');
const { lastingPort } = require('../testkit/ports');
const { WSMsgBroker, startServer, startClient } = require('./support/start');
const { upgrade, frame } = require('./support/upgrade');

const CLI = path.join(__dirname, '..', 'bin', 'wsbrokerserver.js');
const PROGRAM = path.join(__dirname, 'logs', 'program.js');
/** Parts of this text must not be in any log. Its prefix is in all secrets of clients. */
const SECRET = 'wE7secret';

/** The last mask of events that was set for a server, by its number of `listen` calls. */
const masks = [];
const { listen } = NativeServer.prototype;
NativeServer.prototype.listen = function spied(mask) {
  masks.push(mask);
  return listen.call(this, mask);
};

/** A logger that collects its lines: `[level, members, message]`. */
function collector(levels = LEVELS, others = {}) {
  const lines = [];
  let wake = () => {};
  const methods = levels.map((level) => [
    level,
    (...line) => {
      lines.push([level, ...line]);
      wake();
    },
  ]);
  /** Resolves with the first line of this event. */
  const line = async (event, accepts = () => true) => {
    for (;;) {
      const found = lines.find(([, members]) => members.event === event && accepts(members));
      if (found !== undefined) return found;
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
  };
  return { logger: { ...Object.fromEntries(methods), ...others }, lines, line };
}

const urlOf = (server, rest = '/') => `ws://127.0.0.1:${server.address().port}${rest}`;

/** A WebSocket that speaks no protocol yet. */
async function connect(t, url, options) {
  const socket = new WebSocket(url, options);
  t.teardown(() => socket.terminate());
  await once(socket, 'open');
  return socket;
}

/** Sends actions, and resolves once the server has answered the last one, a registration. */
async function register(socket, id, ...before) {
  for (const action of before) socket.send(action);
  socket.send(JSON.stringify({ action: 'register', id }));
  for await (const [data] of on(socket, 'message')) {
    const { action, id: registered } = JSON.parse(data);
    if (action === 'registered' && registered === id) return;
  }
}

/** The status of a handshake that is refused. */
async function refusedWith(url, headers = {}) {
  const socket = new WebSocket(url, { headers });
  const [error] = await once(socket, 'error');
  return error.message;
}

// Channels are shared by all servers of the process: tests of masks must not run beside this one.
test.serial('channels publish events with their server, while they have subscribers', async (t) => {
  const published = [];
  const names = [
    'connection:open',
    'connection:close',
    'register',
    'unregister',
    'refused',
    'slow',
  ];
  names.push('cluster');
  const subscribers = names.map((name) => {
    const subscriber = (message, channel) => published.push([channel, message]);
    diagnostics.subscribe(`wsmsgbroker:${name}`, subscriber);
    return [`wsmsgbroker:${name}`, subscriber];
  });
  const nats = { servers: 'nats://127.0.0.1:1' };
  const server = new WSMsgBroker.Server({
    port: 0,
    host: '127.0.0.1',
    nats,
    slowConsumer: 'drop',
    maxBackpressure: 1024,
  });
  t.teardown(() => server.close());
  server.on('cluster', () => {});
  await server.ready;
  const client = await startClient(t, server, 'a');
  await refusedWith(urlOf(server, '/elsewhere'));
  await dropFor(t, server, client);
  client.close();
  await once(client, 'close');
  const isPublished = (name) => published.some(([channel]) => channel === `wsmsgbroker:${name}`);
  while (!names.every(isPublished)) await sleep(20);
  await server.close();
  for (const [name, subscriber] of subscribers) diagnostics.unsubscribe(name, subscriber);
  const of = (name) => published.find(([channel]) => channel === `wsmsgbroker:${name}`)?.[1];
  for (const name of names) t.is(of(name)?.server, server, name);
  t.is(of('connection:open').remoteAddress, '127.0.0.1');
  t.like(of('register'), { id: 'a', remoteAddress: '127.0.0.1', secure: false });
  const unregistered = published.filter(([name]) => name === 'wsmsgbroker:unregister');
  t.true(unregistered.some(([, { id }]) => id === 'a'));
  t.is(of('refused').status, '404');
  t.like(of('slow'), { id: 'slow', reason: 'dropping' });
  t.is(of('cluster').state, 'failed');
  const closed = published.filter(([name]) => name === 'wsmsgbroker:connection:close');
  t.true(closed.some(([, { id, reason }]) => id === 'a' && reason === 'client'));
});

/** Makes messages to a client that does not read be dropped. */
async function dropFor(t, server, sender) {
  const reader = net.connect(server.address().port, '127.0.0.1').pause();
  t.teardown(() => reader.destroy());
  reader.write(upgrade('/'));
  reader.write(frame({ action: 'register', id: 'slow' }));
  while (!server.has('slow')) await sleep(5);
  while (server.stats().dropped === 0) {
    sender.send('x'.repeat(100_000), 'slow');
    await sleep(1);
  }
  reader.destroy();
}

/** The names of the kinds in the mask that was set last. */
const kindsOf = (mask) =>
  Object.keys(ServerEventKind)
    .filter((name) => mask & (1 << ServerEventKind[name]))
    .sort();

const WARN = ['Denied', 'Disconnected', 'HandshakeRefused', 'Refused', 'Slow'];
const INFO = [...WARN, 'TakenOver'].sort();
const DEBUG = [...INFO, 'Connection', 'Registered', 'UnknownId', 'Unregistered'].sort();
const method = () => {};
const all = { debug: method, info: method, warn: method, error: method };

for (const [name, logger, expected] of [
  ['none', undefined, []],
  ['console', { ...console }, DEBUG],
  ['level debug', { ...all, level: 'debug' }, DEBUG],
  ['level trace', { ...all, level: 'trace' }, DEBUG],
  ['level info', { ...all, level: 'info' }, INFO],
  ['level warn', { ...all, level: 'warn' }, WARN],
  ['level error', { ...all, level: 'error' }, []],
  ['level silent', { ...all, level: 'silent' }, []],
  ['a level that it knows itself', { ...all, level: 'verbose' }, DEBUG],
  ['level debug, but no method debug', { ...all, level: 'debug', debug: undefined }, INFO],
  ['only a method error', { error: method }, []],
  [
    'isLevelEnabled, which precedes level',
    { ...all, level: 'debug', isLevelEnabled: (level) => level === 'warn' },
    WARN,
  ],
]) {
  test.serial(`the addon sends the events of enabled levels only: ${name}`, (t) => {
    masks.length = 0;
    const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', logger });
    t.teardown(() => server.close());
    server.on('error', () => {}).removeAllListeners('error');
    t.deepEqual(kindsOf(masks.at(-1) ?? 0), expected);
    const listener = () => {};
    server.on('registered', listener);
    const union = [...new Set([...expected, 'Registered'])].sort();
    t.deepEqual(kindsOf(masks.at(-1)), union);
    server.off('registered', listener);
    t.deepEqual(kindsOf(masks.at(-1)), expected);
  });
}

test.serial('a level that changes takes effect within a second', async (t) => {
  const { logger, lines, line } = collector(LEVELS, { level: 'silent' });
  const server = await startServer(t, { logger });
  await startClient(t, server, 'a');
  masks.length = 0;
  logger.level = 'debug';
  while (masks.length === 0) await sleep(20);
  t.deepEqual(kindsOf(masks.at(-1)), DEBUG);
  t.deepEqual(lines, []);
  await startClient(t, server, 'b');
  t.is((await line('registered'))[1].id, 'b');
  // A higher level takes effect at once.
  logger.level = 'silent';
  const { length } = lines;
  await server.close();
  t.is(lines.length, length);
});

test('lines have a level, an object with the event, and a message', async (t) => {
  const { logger, lines, line } = collector();
  const server = await startServer(t, { logger, path: '/here' });
  const info = { remoteAddress: '127.0.0.1', secure: false };
  const { port } = server.address();
  t.deepEqual(lines[0], [
    'info',
    {
      event: 'listening',
      address: '127.0.0.1',
      port,
      path: '/here',
      secure: false,
    },
    'server is listening',
  ]);
  const [first, second] = [
    await connect(t, urlOf(server, '/here')),
    await connect(t, urlOf(server, '/here')),
  ];
  await register(first, 'a', 'not JSON');
  await register(second, 'a');
  second.send(JSON.stringify({ action: 'send', dest: 'none', message: 1 }));
  await refusedWith(urlOf(server, '/elsewhere'));
  const like = async (event, level, members) => {
    const [found, object, message] = await line(event);
    t.is(found, level, event);
    t.is(message, EVENTS[event].message);
    t.like(object, members, event);
  };
  await like('connection', 'debug', info);
  await like('registered', 'debug', { id: 'a', ...info });
  await like('taken_over', 'info', { id: 'a', ...info });
  await like('invalid_action', 'warn', { code: 'ERR_WSMB_JSON', ...info });
  await like('unknown_id', 'debug', { id: 'none' });
  await like('refused', 'info', { status: '404', ...info });
  t.is((await line('taken_over'))[1].remotePort, second._socket.localPort);
  first.close();
  await like('disconnected', 'debug', { reason: 'client', ...info });
  second.terminate();
  const [level, lost] = await line('disconnected', ({ reason }) => reason === 'lost');
  t.is(level, 'info');
  t.like(lost, { id: 'a', reason: 'lost', messages: 2 });
  t.true(Number.isInteger(lost.duration) && lost.bytesReceived > 0 && lost.bytesSent > 0);
  await like('unregistered', 'debug', { id: 'a' });
  await server.close({ drain: 5 });
  await like('closing', 'info', { drain: 5, delay: 0 });
  await like('closed', 'info', { event: 'closed' });
  t.is(lines.at(-1)[1].event, 'closed');
});

test('the same connection that registers its id again is no takeover', async (t) => {
  const { logger, lines, line } = collector();
  const server = await startServer(t, { logger });
  const socket = await connect(t, urlOf(server));
  await register(socket, 'a');
  await register(socket, 'a');
  socket.close();
  await line('disconnected');
  t.is(lines.filter(([, { event }]) => event === 'registered').length, 2);
  t.is(lines.filter(([, { event }]) => event === 'taken_over').length, 0);
});

test('slow consumers and handshakes without TLS are warnings', async (t) => {
  const { logger, line } = collector(['warn']);
  const slow = await startServer(t, { logger, slowConsumer: 'drop', maxBackpressure: 1024 });
  await dropFor(t, slow, await startClient(t, slow, 'sender'));
  t.like(await line('slow'), ['warn', { id: 'slow', reason: 'dropping' }]);
  const { cert, key } = authority().issue();
  const secure = await startServer(t, { logger, tls: { cert, key } });
  const socket = net.connect(secure.address().port, '127.0.0.1').on('error', () => {});
  socket.write('GET / HTTP/1.1\r\n\r\n');
  t.like(await line('refused'), ['warn', { status: 'tls' }]);
});

test('failures of the program and of the system are errors', async (t) => {
  const { logger, line } = collector(['error']);
  const server = await startServer(t, {
    logger,
    authenticate({ token }) {
      return JSON.parse(token);
    },
  });
  server.on('error', () => {});
  const client = new WSMsgBroker('a', urlOf(server), { token: SECRET });
  await once(client, 'error');
  const [, failure] = await line('failure');
  t.deepEqual(failure, { event: 'failure', operation: 'authenticate', name: 'SyntaxError' });
  const other = collector(['error']);
  const options = { port: server.address().port, host: '127.0.0.1', logger: other.logger };
  const second = new WSMsgBroker.Server(options);
  await once(second, 'error');
  t.like((await other.line('failure'))[1], { operation: 'listen', code: 'EADDRINUSE' });
});

test('an unreachable NATS is an error, and the warning of the process remains', async (t) => {
  const { logger, line } = collector(['error']);
  const warned = on(process, 'warning');
  const server = await startServer(t, { logger, nats: { servers: 'nats://127.0.0.1:1' } });
  const [level, { state, reason }] = await line('cluster');
  t.deepEqual([level, state, typeof reason], ['error', 'failed', 'string']);
  for await (const [{ code }] of warned) if (code === 'WSMB_CLUSTER') break;
  await server.close();
});

test('a logger is no listener, and its frames do not end the process', async (t) => {
  const { logger, line } = collector();
  const server = await startServer(t, { logger });
  const plain = await startServer(t);
  t.deepEqual(server.eventNames(), plain.eventNames());
  const socket = await connect(t, urlOf(server));
  await register(socket, 'a', 'not JSON', '{"action":"fly"}');
  await line('invalid_action', ({ code }) => code === 'ERR_WSMB_ACTION');
  t.is(server.listenerCount('error'), 0);
});

test('listeners of the program see the same with a logger', async (t) => {
  const seen = await Promise.all(
    [{}, { logger: collector().logger }].map(async (options) => {
      const server = await startServer(t, options);
      const events = [];
      const { emit } = server;
      server.emit = function spy(name, ...args) {
        if (this.listenerCount(name) > 0) events.push([name, args.length]);
        return emit.call(this, name, ...args);
      };
      server.on('registered', (_id, info) => {
        // A listener may change its argument.
        info.remoteAddress = undefined;
      });
      server.on('disconnected', (connection) => {
        events.push(Object.keys(connection));
      });
      const ended = once(server, 'disconnected');
      const client = await startClient(t, server, 'a');
      client.close();
      await ended;
      return events;
    }),
  );
  t.deepEqual(seen[0], seen[1]);
});

test('writes 20 lines of an event and level in a second, then how many were suppressed', async (t) => {
  const { logger, lines, line } = collector();
  const server = await startServer(t, { logger });
  const socket = await connect(t, urlOf(server));
  await register(socket, 'a', ...Array(100).fill('not JSON'));
  const [level, suppressed] = await line('suppressed');
  const written = (event) => lines.filter(([, members]) => members.event === event);
  t.is(level, 'warn');
  t.is(suppressed.suppressed, 'invalid_action');
  t.is(written('invalid_action').length + suppressed.count, 100);
  // A slow machine takes more than a second for the 100 frames.
  t.true(written('invalid_action').length % 20 === 0 || suppressed.count < 80);
  // Other events have a limit of their own.
  t.is(written('registered').length, 1);
  await register(socket, 'a', 'not JSON');
  await line('registered', () => written('registered').length === 2);
  t.is(written('invalid_action').length + suppressed.count, 101);
});

test('the number of suppressed lines is written when the server closes', async (t) => {
  const { logger, lines, line } = collector();
  const server = await startServer(t, { logger });
  const socket = await connect(t, urlOf(server));
  await register(socket, 'a', ...Array(50).fill('not JSON'));
  await line('registered');
  await server.close();
  const found = lines.filter(([, { event }]) => event === 'invalid_action').length;
  const counts = lines.filter(([, { event }]) => event === 'suppressed');
  t.is(found + counts.reduce((sum, [, { count }]) => sum + count, 0), 50);
  t.true(found < 50);
});

/** Runs a program. Resolves with its exit code and its stderr. */
async function run(t, [file, ...args], env = {}) {
  const child = spawn(process.execPath, [file, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...env },
  });
  t.teardown(() => child.kill('SIGKILL'));
  let stderr = '';
  child.stderr.on('data', (data) => {
    stderr += data;
  });
  const [code] = await once(child, 'close');
  return { code, stderr };
}

test('a logger that throws or rejects does not disturb the server, and is reported once', async (t) => {
  const { code, stderr } = await run(t, [PROGRAM, 'throw']);
  t.is(code, 0, stderr);
  t.is(stderr.match(/\[WSMB_LOGGER\]/g)?.length, 1, stderr);
});

for (const [name, text, logger] of [
  [
    'that throws',
    'thrown',
    {
      info: () => {
        throw new Error('thrown');
      },
    },
  ],
  [
    'that throws null',
    'null',
    {
      info: () => {
        throw null;
      },
    },
  ],
  ['that rejects', 'rejected', { info: () => Promise.reject(new Error('rejected')) }],
  [
    'whose level cannot be read',
    'unreadable',
    {
      info: () => {},
      get level() {
        throw new Error('unreadable');
      },
    },
  ],
]) {
  test(`a logger ${name} is a warning, and the server goes on`, async (t) => {
    const warnings = on(process, 'warning');
    const server = await startServer(t, { logger });
    await startClient(t, server, 'a');
    for await (const [{ code, message }] of warnings) {
      if (code === 'WSMB_LOGGER' && message.includes(`failed: ${text}`)) break;
      if (code === 'WSMB_LOGGER' && message.includes(`Error: ${text}\n`)) break;
    }
    await server.close();
    t.pass();
  });
}

test('the option logger must have a method', (t) => {
  for (const logger of [null, 1, 'pino', {}, { log() {} }, { info: 'text' }]) {
    const create = () => new WSMsgBroker.Server({ port: 0, logger });
    t.throws(create, { instanceOf: TypeError, code: 'ERR_WSMB_OPTION' });
  }
});

test('NODE_DEBUG=wsmsgbroker prints all levels to stderr, without a logger', async (t) => {
  const { code, stderr } = await run(t, [PROGRAM], { NODE_DEBUG: 'wsmsgbroker' });
  t.is(code, 0, stderr);
  const lines = stderr.trim().split('\n');
  const events = lines.map((line) => /^WSMSGBROKER \d+: \w+ +(\w+): /.exec(line)?.[1]);
  for (const event of [
    'listening',
    'connection',
    'registered',
    'unknown_id',
    'disconnected',
    'closed',
  ])
    t.true(events.includes(event), stderr);
  t.false(events.includes(undefined), stderr);
  t.true(stderr.includes('id="a\\nforged"'), stderr);
  const silent = await run(t, [PROGRAM], { NODE_DEBUG: 'other' });
  t.is(silent.stderr, '');
});

test('NODE_DEBUG does not end a process whose stderr is closed', async (t) => {
  const child = spawn(process.execPath, [PROGRAM], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, NODE_DEBUG: 'wsmsgbroker' },
  });
  t.teardown(() => child.kill('SIGKILL'));
  child.stderr.destroy();
  const messages = [];
  child.on('message', (message) => messages.push(message));
  const [exit] = await Promise.all([once(child, 'exit'), once(child, 'disconnect')]);
  t.deepEqual(exit, [0, null]);
  t.deepEqual(messages, ['done']);
});

/** A broker of the command line with these flags: its process, and the lines of its stderr. */
async function command(t, ...flags) {
  const child = spawn(process.execPath, [CLI, '0', '--host', '127.0.0.1', ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  let stdout = '';
  child.stdout.on('data', (data) => {
    stdout += data;
  });
  const lines = [];
  const reader = readline.createInterface({ input: child.stderr });
  reader.on('line', (line) => lines.push(line));
  while (lines.length === 0) await once(reader, 'line');
  const stop = async () => {
    child.kill('SIGTERM');
    const [code] = await once(child, 'close');
    return { code, lines, stdout };
  };
  return { child, lines, reader, stop };
}

const FORGED = 'a\nINFO forged\r\u001b[2K\u009b2K\u2028\u202e" reason=closed';

test('--log json writes one object a line to stderr, and nothing else', async (t) => {
  const { lines, stop } = await command(t, '--log', 'json', '--log-level', 'debug');
  const { port } = JSON.parse(lines[0]);
  for (const id of ['a', FORGED]) {
    const client = await new WSMsgBroker(id, '127.0.0.1', port).connected();
    client.close();
    await once(client, 'close');
  }
  const { code, stdout } = await stop();
  t.is(code, 0);
  t.is(stdout, '');
  const objects = lines.map((line) => JSON.parse(line));
  for (const { time, level, event, message } of objects) {
    t.is(new Date(time).toISOString(), time);
    t.true(LEVELS.includes(level));
    t.true(event in EVENTS, event);
    t.is(typeof message, 'string');
  }
  const ids = objects.filter(({ event }) => event === 'registered').map(({ id }) => id);
  t.deepEqual(ids, ['a', FORGED]);
  t.notRegex(lines.join(''), /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u);
  t.deepEqual(
    ['listening', 'closing', 'closed'].filter(
      (each) => !objects.some(({ event }) => event === each),
    ),
    [],
  );
});

test('--log text writes a line that no id can forge', async (t) => {
  const { lines, stop } = await command(t, '--log', 'text', '--log-level', 'debug');
  const TEXT =
    /^\d{4}-\d\d-\d\dT[\d:.]+Z (?:debug|info |warn |error) (\w+): ([^=]*?)((?: \w+=(?:[\w.:/@-]+|"(?:[^"\\]|\\.)*"))*)$/;
  const port = Number(/ port=(\d+) /.exec(lines[0])[1]);
  for (const id of ['a-1', FORGED, '東京', '']) {
    const client = new WSMsgBroker(id || 'x reason=y', '127.0.0.1', port);
    await client.connected();
    client.close();
    await once(client, 'close');
  }
  await stop();
  t.deepEqual(
    lines.filter((line) => !TEXT.test(line)),
    [],
  );
  t.notRegex(lines.join(''), /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u);
  const ids = lines.filter((line) => TEXT.exec(line)[1] === 'registered');
  t.deepEqual(
    ids.map((line) => / id=(\S+|".*") remoteAddress/.exec(line)[1]),
    [
      'a-1',
      '"a\\nINFO forged\\r\\u001b[2K\\u009b2K\\u2028\\u202e\\" reason=closed"',
      '"東京"',
      '"x reason=y"',
    ],
  );
});

for (const [flags, expected] of [
  [['--log', 'text'], ['info']],
  [
    ['--log-level', 'debug'],
    ['debug', 'info'],
  ],
]) {
  test(`the log is text at level info by default: ${flags.join(' ')}`, async (t) => {
    const { lines, stop } = await command(t, ...flags);
    const port = Number(/Z info {2}listening: .* port=(\d+) /.exec(lines[0])[1]);
    await refusedWith(`ws://127.0.0.1:${port}/elsewhere`);
    const client = await new WSMsgBroker('a', '127.0.0.1', port).connected();
    client.close();
    await once(client, 'close');
    const { code } = await stop();
    t.is(code, 0);
    const levels = new Set(lines.map((line) => line.split(' ')[1]));
    t.deepEqual([...levels].sort(), expected);
    t.true(lines.some((line) => line.includes(' refused: ') && line.includes('status=404')));
  });
}

test('a command that cannot start writes a line of the log at any level, and its exit code', async (t) => {
  const { port } = (await startServer(t)).address();
  for (const level of ['debug', 'error', 'off']) {
    const flags = ['--log', 'json', '--log-level', level];
    const taken = await run(t, [CLI, `${port}`, '--host', '127.0.0.1', ...flags]);
    t.is(taken.code, 1);
    t.regex(JSON.stringify(JSON.parse(taken.stderr)), /EADDRINUSE/);
    const wrong = await run(t, [CLI, '0', '--max-dest', '0', ...flags]);
    t.is(wrong.code, 2);
    t.like(JSON.parse(wrong.stderr), { level: 'error', event: 'command' });
  }
  for (const flags of [
    ['--log', 'xml'],
    ['--log-level', 'all'],
  ]) {
    const { code, stderr } = await run(t, [CLI, '0', ...flags]);
    t.is(code, 2);
    t.regex(stderr, new RegExp(`^wsbrokerserver: ${flags[0]} is '${flags[1]}', expected .*\n$`));
  }
});

test('--log-level off is silent, and other output does not mix with the log', async (t) => {
  const port = await lastingPort(t);
  const quiet = spawn(process.execPath, [CLI, `${port}`, '--log-level', 'off'], { stdio: 'pipe' });
  t.teardown(() => quiet.kill('SIGKILL'));
  let output = '';
  for (const stream of [quiet.stdout, quiet.stderr]) {
    stream.on('data', (data) => {
      output += data;
    });
  }
  const options = { reconnect: { maxDelay: 100 } };
  const client = await new WSMsgBroker('a', '127.0.0.1', port, '/', options).connected();
  client.close();
  await once(client, 'close');
  quiet.kill('SIGTERM');
  t.deepEqual(await once(quiet, 'close'), [0, null]);
  t.is(output, '');
  const unreachable = ['--nats', 'nats://127.0.0.1:1'];
  const { lines, reader, stop } = await command(t, '--log', 'json', ...unreachable);
  while (!lines.some((line) => line.includes('"cluster"'))) await once(reader, 'line');
  await stop();
  const events = lines.map((line) => JSON.parse(line).event);
  t.is(events.filter((event) => event === 'command').length, 0);
});

test('the command goes on without a reader of its log, and counts lines that were not read', async (t) => {
  const closed = await command(t, '--log', 'json', '--log-level', 'debug');
  const { port } = JSON.parse(closed.lines[0]);
  closed.child.stderr.destroy();
  for (const id of ['a', 'b']) {
    const client = await new WSMsgBroker(id, '127.0.0.1', port).connected();
    client.close();
  }
  closed.child.kill('SIGTERM');
  t.deepEqual(await once(closed.child, 'exit'), [0, null]);

  const flags = ['--log-level', 'debug', '--max-id-length', '65536'];
  const paused = await command(t, '--log', 'json', ...flags);
  paused.reader.pause();
  paused.child.stderr.pause();
  const socket = await connect(t, `ws://127.0.0.1:${JSON.parse(paused.lines[0]).port}`);
  // More than the 1 MiB that is queued.
  for (let n = 0; n < 20; n += 1) await register(socket, `${n}-${'x'.repeat(60_000)}`);
  paused.reader.resume();
  while (!paused.lines.some((line) => line.includes('were dropped')))
    await once(paused.reader, 'line');
  const notice = paused.lines
    .map((line) => JSON.parse(line))
    .find(({ event }) => event === 'command');
  t.true(notice.count > 0);
  t.is((await paused.stop()).code, 0);
});

test('a reload by SIGHUP is a line of the log, and a failed one is an error', async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const secret = path.join(folder, 'secret');
  fs.writeFileSync(secret, 'k'.repeat(32));
  const { child, lines, reader, stop } = await command(t, '--log', 'json', '--jwt-secret', secret);
  const reload = async () => {
    const { length } = lines;
    child.kill('SIGHUP');
    while (lines.length === length) await once(reader, 'line');
    return JSON.parse(lines.at(-1));
  };
  t.like(await reload(), {
    level: 'info',
    event: 'command',
    message: 'SIGHUP has reloaded the keys of tokens',
  });
  fs.rmSync(secret);
  const failed = await reload();
  t.like(failed, { level: 'error', event: 'command' });
  t.regex(failed.message, /^--jwt-secret .*; SIGHUP has not changed the keys of tokens$/);
  t.is((await stop()).code, 0);
});

/** A token of the option `jwt`, signed with `key`. */
function token(key, claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', key).update(text).digest('base64url')}`;
}

/** Sends secrets in all places where a client can put one. Returns them. */
async function leak(t, port, given) {
  const url = `ws://127.0.0.1:${port}/?query=${SECRET}-query`;
  const headers = { Cookie: `${SECRET}-cookie`, Authorization: `Bearer ${SECRET}-header` };
  headers['User-Agent'] = `${SECRET}-agent`;
  await refusedWith(`ws://127.0.0.1:${port}/${SECRET}-path?${SECRET}`, headers);
  for (const used of [`${SECRET}-token`, undefined, given]) {
    const socket = await connect(t, url, { headers });
    const ended = once(socket, 'close');
    socket.send(JSON.stringify({ action: 'register', id: 'a', token: used }));
    if (used === given) {
      for (const frame of [
        `{"action":"send","dest":"none","message":"${SECRET}-payload"}`,
        `{"action":"send","dest":5,"message":"${SECRET}-payload"}`,
        `{"action":"send","dest":"none","message":"${SECRET}-payload","ack":"${SECRET}-ack"}`,
        `{"action":"${SECRET}-action"}`,
        `${SECRET}-text`,
        `{"${SECRET}`,
        Buffer.from(`${SECRET}-binary`),
      ]) {
        socket.send(frame);
      }
      socket.close(4000, `${SECRET}-reason`);
    }
    await ended;
  }
  await new Promise((resolve) => {
    http.get({ port, host: '127.0.0.1', path: `/?${SECRET}`, headers }, (response) => {
      response.resume().on('end', resolve);
    });
  });
}

test('no line of a logger or of a channel has a token, a payload, a query or a header', async (t) => {
  const { logger, lines, line } = collector();
  const server = await startServer(t, {
    logger,
    authenticate({ token: found }) {
      if (found === undefined) throw new Error(`${SECRET}-thrown`);
      const refusal = Object.assign(new Error(`${SECRET} is wrong`), {
        code: 'ERR_WSMB_FORBIDDEN',
      });
      if (found !== `${SECRET}-good`) throw refusal;
      return { principal: `${SECRET}-principal` };
    },
  });
  server.on('error', () => {});
  await leak(t, server.address().port, `${SECRET}-good`);
  await line('disconnected', ({ code }) => code === 4000);
  await server.close();
  const events = new Set(lines.map(([, { event }]) => event));
  for (const event of [
    'refused',
    'denied',
    'invalid_action',
    'unknown_id',
    'failure',
    'registered',
  ])
    t.true(events.has(event), event);
  t.notRegex(JSON.stringify(lines), new RegExp(SECRET));
});

for (const format of ['json', 'text']) {
  test(`no line of the command has one either: ${format}, and NODE_DEBUG`, async (t) => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
    t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
    const file = path.join(folder, 'secret');
    const key = `${SECRET}-${'k'.repeat(32)}`;
    fs.writeFileSync(file, key);
    const { NODE_DEBUG } = process.env;
    const flags = ['--log', format, '--log-level', 'debug', '--jwt-secret', file];
    const args = [CLI, '0', '--host', '127.0.0.1', ...flags];
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_DEBUG: NODE_DEBUG ?? 'wsmsgbroker' },
    });
    t.teardown(() => child.kill('SIGKILL'));
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        output += data;
      });
    }
    let port;
    while (port === undefined) {
      port = /port[":=]+(\d+)/.exec(output)?.[1];
      await sleep(20);
    }
    const exp = Math.floor(Date.now() / 1000) + 3600;
    const given = token(key, { sub: 'a', exp, note: `${SECRET}-claim` });
    await leak(t, port, given);
    child.kill('SIGTERM');
    await once(child, 'close');
    for (const event of [
      'refused',
      'denied',
      'invalid_action',
      'unknown_id',
      'registered',
      'closed',
    ])
      t.true(output.includes(`${event}`), output);
    t.true(output.includes('WSMSGBROKER '));
    t.notRegex(output, new RegExp(SECRET));
    // Nor a part of the token.
    for (const part of given.split('.')) t.false(output.includes(part), part);
  });
}

test('the monitoring guide and index.d.ts have all events, with their levels', (t) => {
  const read = (name) => fs.readFileSync(path.join(__dirname, '..', name), 'utf8');
  const guide = read('docs/guides/monitoring.md');
  const rows = guide.matchAll(
    /^\| `(\w+)` \| ((?:debug|info|warn|error|that of the lines).*?) \|/gm,
  );
  const documented = Object.fromEntries(Array.from(rows, ([, event, level]) => [event, level]));
  const inWords = ({ level }) => {
    if (typeof level === 'string') return level;
    const [, levels, otherwise] = level;
    const used = LEVELS.filter((each) => Object.values(levels).includes(each));
    const parts = used.map((each) => {
      const values = Object.keys(levels).filter((value) => levels[value] === each);
      return `${each}: ${values.map((value) => `\`${value}\``).join(', ')}`;
    });
    return [...parts, `otherwise ${otherwise}`].join('; ');
  };
  const { suppressed, ...others } = documented;
  t.is(suppressed, 'that of the lines');
  t.deepEqual(
    others,
    Object.fromEntries(Object.entries(EVENTS).map(([name, each]) => [name, inWords(each)])),
  );
  const [, union] = /type LogEvent =([^;]*);/.exec(read('index.d.ts'));
  t.deepEqual(
    Array.from(union.matchAll(/'(\w+)'/g), ([, name]) => name),
    [...Object.keys(EVENTS), 'suppressed'],
  );
  const channels = Object.entries(EVENTS).filter(([, { channel }]) => channel !== undefined);
  for (const [event, { channel }] of channels)
    t.true(guide.includes(`| \`wsmsgbroker:${channel}\` | \`${event}\` |`), channel);
  t.true(
    Object.values(EVENTS).every((each) => levelsOf(each).every((level) => LEVELS.includes(level))),
  );
});
