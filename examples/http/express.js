'use strict';

// A broker at the port of an Express application, for users with a session: the id of a client must be the name of its
// user. Prints which clients are registered or refused, and how the logout of the user closes his connection.

const http = require('node:http');
const { promisify } = require('node:util');
const express = require('express');
const session = require('express-session');
const WSMsgBroker = require('wsmsgbroker');

// In production: a secret from outside the source, and a store.
const sessions = session({ secret: 'secret', resave: false, saveUninitialized: false });

const app = express();
app.use(sessions);
// In production: after a password was checked.
app.post('/login/:user', (req, res) => {
  req.session.regenerate(() => {
    req.session.user = req.params.user;
    res.sendStatus(204);
  });
});
app.post('/logout', (req, res) => {
  const { user } = req.session;
  req.session.destroy(() => {
    if (user !== undefined) server.disconnect(user, 4001, 'logged out');
    res.sendStatus(204);
  });
});

const httpServer = http.createServer(app);
const server = new WSMsgBroker.Server({
  server: httpServer,
  path: '/ws',
  // Runs the middleware for the upgrade request. The result is the `context` of `authenticate`.
  allowUpgrade: async (req) => {
    await promisify(sessions)(req, {});
    const { user } = req.session;
    return user !== undefined && { user };
  },
  authenticate: ({ id, context }) => id === context.user,
});

async function main() {
  httpServer.listen(0, '127.0.0.1');
  await server.ready;
  const address = `127.0.0.1:${httpServer.address().port}`;
  const connect = (id, headers) =>
    new WSMsgBroker(id, `ws://${address}/ws`, { protocol: 2, headers });

  const login = await fetch(`http://${address}/login/ann`, { method: 'POST' });
  const headers = { cookie: login.headers.get('set-cookie').split(';')[0] };
  const ann = await connect('ann', headers).connected();
  console.log(`registered: ${server.ids()}`);

  for (const client of [connect('eve'), connect('bob', headers)]) {
    await client.connected().catch((error) => console.log(`${client.id}: ${error.message}`));
  }

  const closed = new Promise((resolve) => ann.on('close', (...args) => resolve(args)));
  await fetch(`http://${address}/logout`, { method: 'POST', headers });
  console.log('ann:', ...(await closed));
  await server.close();
  httpServer.close();
}

main();
