'use strict';

// Jest loads modules into a separate realm. The addon must work there.

const { once } = require('node:events');
const WSMsgBroker = require('../..');

test('loads and exchanges messages', async () => {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const { port } = server.address();
  const [asker, echo] = ['asker', 'echo'].map((id) => new WSMsgBroker(id, '127.0.0.1', port));
  await Promise.all([once(asker, 'registered'), once(echo, 'registered')]);

  echo.on('message', (message, response) => response.send({ got: message }));
  const answer = await new Promise((resolve) => {
    asker.send(['hello'], 'echo', (from, answer) => resolve({ from, answer }));
  });
  expect(answer).toEqual({ from: 'echo', answer: { got: ['hello'] } });

  await Promise.all([asker.close(), echo.close(), server.close()]);
});
