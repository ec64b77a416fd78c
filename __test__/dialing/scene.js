'use strict';

// Clients in a network and with host names of their own: names with several addresses, of which some drop all packets,
// and resolvers that give no answer. Run by dialing.test.js. Ends with 0 if all is as it must be.

const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const dgram = require('node:dgram');
const { lookup } = require('node:dns/promises');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('../..');

/** Addresses beyond a link whose other end drops everything. */
const SILENT = ['fd09::2', '10.9.0.2'];
const HOSTS = `127.0.0.1 localhost
fd09::2 two mixed
127.0.0.1 two mixed
fd09::2 silent
10.9.0.2 silent
`;

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-dialing-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true }));

const run = (line) => {
  const [program, ...words] = line.split(' ');
  execFileSync(program, words);
};

/** Replaces a file of the system, for this process only. */
function replace(file, text) {
  const own = path.join(folder, path.basename(file));
  fs.writeFileSync(own, text);
  run(`mount --bind ${own} ${file}`);
}

function prepare() {
  run('ip link set lo up');
  run('ip link add name near type veth peer name far');
  run('ip addr add 10.9.0.1/24 dev near');
  run('ip -6 addr add fd09::1/64 dev near nodad');
  run('ip link set near up');
  run('ip link set far up');
  for (const address of SILENT) {
    run(`ip neigh add ${address} lladdr 02:00:00:00:00:02 dev near`);
  }
  replace('/etc/hosts', HOSTS);
  replace('/etc/resolv.conf', 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n');
}

/** The error with which a client fails to connect, and how long that took. */
async function failure(host, port, options) {
  const start = Date.now();
  const client = new WSMsgBroker('a', `ws://${host}:${port}`, options);
  const closed = new Promise((resolve) => client.on('close', resolve));
  const [error] = await once(client, 'error');
  await closed;
  return { error, ms: Date.now() - start };
}

/** Attempts that wait for the other end: sockets in the state SYN_SENT. */
function pendingAttempts() {
  const sockets = ['tcp', 'tcp6'].map((name) => fs.readFileSync(`/proc/net/${name}`, 'utf8'));
  return sockets.join('').match(/^ +\d+: \S+ \S+ 02 /gm) ?? [];
}

const brief = ({ code, address, port }) => [code, address, port];

async function main() {
  prepare();
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const { port } = server.address();
  // IPv6 may be used only after a moment.
  while ((await lookup('two')).address !== SILENT[0]) await sleep(10);

  const start = Date.now();
  const client = await new WSMsgBroker('a', `ws://two:${port}`).connected();
  const ms = Date.now() - start;
  assert.ok(ms > 200 && ms < 2_000, `the second address was tried after ${ms} ms`);
  assert.deepEqual(pendingAttempts(), [], 'the attempt at the first address is cancelled');
  await client.close();

  const both = await failure('silent', port, { connectTimeout: 800 });
  assert.ok(both.ms >= 700 && both.ms < 3_000, `all addresses were given up after ${both.ms} ms`);
  assert.ok(both.error instanceof AggregateError);
  assert.equal(both.error.code, 'ETIMEDOUT');
  assert.equal(both.error.syscall, 'connect');
  assert.equal(both.error.hostname, 'silent');
  assert.deepEqual(both.error.errors.map(brief).sort(), [
    ['ETIMEDOUT', '10.9.0.2', port],
    ['ETIMEDOUT', 'fd09::2', port],
  ]);
  for (const address of SILENT) assert.ok(both.error.message.includes(address));
  assert.deepEqual(pendingAttempts(), []);

  const mixed = await failure('mixed', 9, { connectTimeout: 800 });
  assert.equal(mixed.error.code, 'ECONNREFUSED', 'a refusal tells more than silence');
  assert.deepEqual(mixed.error.errors.map(brief), [
    ['ECONNREFUSED', '127.0.0.1', 9],
    ['ETIMEDOUT', 'fd09::2', 9],
  ]);

  const one = await failure('10.9.0.2', 9, { connectTimeout: 300 });
  assert.deepEqual(brief(one.error), ['ETIMEDOUT', '10.9.0.2', 9]);
  assert.equal(one.error.errors, undefined);

  const unreachable = await failure('192.0.2.1', 9);
  assert.equal(unreachable.error.code, 'ENETUNREACH');

  // Nothing listens where the resolver should be.
  const unanswered = await failure('example.org', 9);
  const { code, syscall, hostname, message } = unanswered.error;
  assert.deepEqual([code, syscall, hostname], ['EAI_AGAIN', 'getaddrinfo', 'example.org']);
  assert.equal(message, 'getaddrinfo EAI_AGAIN example.org');
  const theirs = await lookup('example.org').then(assert.fail, (error) => error);
  assert.deepEqual([theirs.code, theirs.syscall, theirs.message], [code, syscall, message]);

  // A resolver that knows no name.
  const resolver = dgram.createSocket('udp4');
  resolver.on('message', (query, { port: from, address }) => {
    query.writeUInt16BE(0x8183, 2);
    resolver.send(query, from, address);
  });
  resolver.bind(53, '127.0.0.1');
  await once(resolver, 'listening');
  const unknown = await failure('example.org', 9);
  assert.equal(unknown.error.code, 'ENOTFOUND');
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
