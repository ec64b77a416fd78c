'use strict';

// Which events the addon sends for the log: those of enabled levels, and of diagnostics channels with subscribers.

const diagnostics = require('node:diagnostics_channel');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const test = require('ava');
const { LEVELS } = require('../lib/log/events');
const { NativeServer, ServerEventKind } = require('../lib/native');
const { collector, urlOf, refusedWith, dropFor } = require('./support/logs');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

/** The last mask of events that was set for a server, by its number of `listen` calls. */
const masks = [];
const { listen } = NativeServer.prototype;
NativeServer.prototype.listen = function spied(mask) {
  masks.push(mask);
  return listen.call(this, mask);
};

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

/** The names of the kinds in the mask that was set last. */
const kindsOf = (mask) =>
  Object.keys(ServerEventKind)
    .filter((name) => mask & (1 << ServerEventKind[name]))
    .sort();

const WARN = ['Denied', 'Disconnected', 'HandshakeRefused', 'Refused', 'Slow'];
const INFO = [...WARN, 'TakenOver'].sort();
const DEBUG = [...INFO, 'Connection', 'Registered', 'Resumed', 'UnknownId', 'Unregistered'].sort();
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
