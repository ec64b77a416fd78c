'use strict';

// Clients whose connections are cut, and raw connections with sessions, for the tests of sessions.

const { once } = require('node:events');
const { WebSocket } = require('ws');
const { startServer } = require('./start');
const { startRelay } = require('./relay');
const { urlOf, open } = require('./clients');

const QUICK = { minDelay: 5, maxDelay: 20 };

/** A server with sessions, a client behind a relay, and another client. */
async function start(t, kind, { server: options, client: more, scheme = 'ws' } = {}) {
  const server = await startServer(t, { sessionTimeout: 30_000, ...options });
  const relay = await startRelay(t, server);
  const url = (port) => `${scheme}://localhost:${port}/`;
  const client = open(t, kind, 'client', url(relay.address().port), { reconnect: QUICK, ...more });
  await client.connected();
  const peer = await open(t, kind, 'peer', url(server.address().port), more).connected();
  return { server, relay, client, peer };
}

/** Cuts the connection of the client. Resolves when the server has noticed that. */
async function cut({ server, relay, client }) {
  const lost = once(client, 'reconnecting');
  const noticed = once(server, 'disconnected');
  relay.cut();
  await Promise.all([lost, noticed]);
}

/** Resolves with the next messages of a client. */
async function take(client, count) {
  const taken = [];
  for await (const { message } of client.messages()) {
    taken.push(message);
    if (taken.length === count) return taken;
  }
}

/** A raw connection that has registered with this session. */
async function raw(t, server, id, session, token) {
  const socket = new WebSocket(urlOf(server));
  t.teardown(() => socket.terminate());
  const frames = [];
  let wake = () => {};
  socket.on('message', (data) => {
    frames.push(JSON.parse(data));
    wake();
  });
  const next = async () => {
    while (frames.length === 0) {
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
    return frames.shift();
  };
  await once(socket, 'open');
  const send = (frame) => socket.send(JSON.stringify(frame));
  send({ action: 'register', id, protocol: 2, session, token });
  return { socket, next, send };
}

module.exports = { QUICK, start, cut, take, raw };
