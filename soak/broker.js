'use strict';

// The broker of the soak test: the addon in a process of its own. One server is plain and open to all
// clients. The other speaks TLS, requires tokens and changes its certificate regularly. Both have listeners
// for every event and keep the last events in memory, like a program that logs. The process reports counters
// on request.

const { randomBytes } = require('node:crypto');
const { once } = require('node:events');
const WSMsgBroker = require('..');
const { authority, DAY } = require('../testkit/certificates');
const { CERTIFICATE_EVERY, LIMITS } = require('./limits');
const { ISSUER } = require('./token');

const REMEMBERED = 100;
const EVENTS = [
  'connection',
  'registered',
  'unregistered',
  'warn',
  'error',
  'denied',
  'slow',
  'dropped',
];

const trusted = authority('soak', { lasts: 30 * DAY });
const secret = randomBytes(32).toString('base64url');
const last = [];

function start(options) {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...LIMITS, ...options });
  for (const name of EVENTS) {
    server.on(name, (...values) => {
      last.push([name, ...values]);
      if (last.length > REMEMBERED) last.shift();
    });
  }
  return server;
}

const plain = start();
// An id without wildcards is a pattern, too, which matches only itself. A wider one would be another
// principal.
const jwt = { secret, issuer: ISSUER, subject: 'pattern' };
const secure = start({ tls: trusted.issue(), jwt });
const servers = { plain, secure };

/** Sets a new certificate, after an unusable one that must change nothing. */
function renew() {
  const [next, other] = [trusted.issue(), trusted.issue()];
  try {
    secure.setTls({ ...other, key: next.key });
    process.send({ broken: 'setTls accepted the key of another certificate' });
  } catch (error) {
    if (error.code !== 'ERR_WSMB_TLS') throw error;
  }
  secure.setTls(next);
}
const renewals = setInterval(renew, CERTIFICATE_EVERY);

function close() {
  clearInterval(renewals);
  return Promise.all(Object.values(servers).map((server) => server.close()));
}

async function main() {
  await Promise.all(Object.values(servers).map((server) => once(server, 'listening')));
  const { port } = secure.address();
  const places = {
    plain: { port: plain.address().port },
    secure: { port, secret, ca: trusted.ca },
  };
  process.send({ places });
}

process.on('message', async (message) => {
  if (message === 'sample') {
    const stats = { plain: plain.stats(), secure: secure.stats() };
    process.send({ heap: process.memoryUsage().heapUsed, stats });
  } else if (message === 'close') {
    await close();
    // From here on, nothing keeps the process alive.
    process.disconnect();
  }
});
// The driver has ended.
process.on('disconnect', close);
main();
