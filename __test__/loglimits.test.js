'use strict';

// The rate limit of the log of a server.

const test = require('ava');
const { collector, urlOf, connect, register } = require('./support/logs');
const { startServer } = require('./support/start');

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
