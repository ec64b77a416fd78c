'use strict';

// Programs that load the package again and again, as jest.resetModules() does, and that replace timers.

const { once } = require('node:events');

/** Loads the package into a new registry of modules. */
function load() {
  jest.resetModules();
  return require('../..');
}

/** A server and a client that have exchanged an answer, both closed again. */
async function converse(WSMsgBroker) {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const client = new WSMsgBroker('a', '127.0.0.1', server.address().port, '/', { protocol: 2 });
  client.on('message', (message, response) => response.send(message + 1));
  await client.connected();
  const { message } = await server.request(1, 'a');
  await Promise.all([client.close(), server.close()]);
  return message;
}

test('modules that are loaded many times add one exit listener', async () => {
  const warnings = [];
  process.on('warning', (warning) => warnings.push(warning));
  const before = process.listenerCount('exit');
  for (let count = 0; count < 12; count += 1) {
    expect(await converse(load())).toBe(2);
  }
  expect(process.listenerCount('exit')).toBeLessThanOrEqual(before + 1);
  expect(warnings).toEqual([]);
});

test('a server works with fake timers', async () => {
  const WSMsgBroker = load();
  jest.useFakeTimers();
  try {
    const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
    await once(server, 'listening');
    await new Promise((resolve) => server.close(resolve));
  } finally {
    jest.useRealTimers();
  }
});
