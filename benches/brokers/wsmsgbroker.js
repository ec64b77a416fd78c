'use strict';

// This package with its defaults. `--threads N` sets the number of worker threads. With `--jwt` clients need
// a token. With `--tls` it speaks TLS with a certificate created at the start. With `--nats URL` it is a
// broker of a cluster. With `--attach native` it shares the port of an HTTP server; with `--attach bridge` JavaScript
// reads and writes the sockets, as if the HTTP server terminated TLS. With `--topics` the load broadcasts to a topic.

const http = require('node:http');
const { createHmac } = require('node:crypto');
const { parseArgs } = require('node:util');
const WSMsgBroker = require('../..');
const { authority } = require('../../testkit/certificates');
const { announce } = require('./stdio');

const SECRET = 'known to all, and long enough for HS256';

/** A token for any id. */
function sign() {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const text = `${part({ alg: 'HS256' })}.${part({ sub: '*', exp })}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

const { values } = parseArgs({
  options: {
    threads: { type: 'string' },
    jwt: { type: 'boolean', default: false },
    tls: { type: 'boolean', default: false },
    nats: { type: 'string' },
    attach: { type: 'string' },
    topics: { type: 'boolean', default: false },
  },
});
const options = { port: 0, host: '127.0.0.1' };
const needed = {}; // options for the load
if (values.threads !== undefined) options.threads = Number(values.threads);
if (values.jwt) {
  options.jwt = { secret: SECRET, subject: 'pattern' };
  needed.token = sign();
}
if (values.topics) {
  needed.protocol = 'wsmb-topic';
}
if (values.tls) {
  const { ca, issue } = authority();
  options.tls = issue();
  Object.assign(needed, { scheme: 'wss', ca });
}

// It listens once it has received the claims of the other brokers.
if (values.nats !== undefined) {
  options.nats = { servers: [values.nats], namespace: 'bench', required: true };
}

if (values.attach !== undefined) {
  const httpServer = http.createServer();
  if (values.attach === 'bridge') {
    httpServer.prependListener('connection', (socket) => {
      socket.encrypted = true;
    });
  }
  httpServer.listen(options.port, options.host);
  delete options.port;
  delete options.host;
  options.server = httpServer;
}
const server = new WSMsgBroker.Server(options);
server.on('warn', (error) => console.error('warn:', error.message));
server.on('error', (error) => console.error('error:', error.message));
server.on('listening', () => announce({ port: server.address().port, ...needed }));
