'use strict';

// The log of a server: the lines of its events, with their levels and members.

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { on, once } = require('node:events');
const test = require('ava');
const { EVENTS, LEVELS, levelsOf } = require('../lib/log/events');
const { authority } = require('../testkit/certificates');
const {
  SECRET,
  collector,
  urlOf,
  connect,
  register,
  refusedWith,
  dropFor,
} = require('./support/logs');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

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
