'use strict';

// Where a server listens: Unix sockets that outlive a process, ports that several processes share, paths that a URL
// must escape.

const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { fork, spawn } = require('node:child_process');
const { on, once } = require('node:events');
const readline = require('node:readline');
const test = require('ava');
const { lastingPort } = require('../testkit/ports');
const { WSMsgBroker, startServer } = require('./support/start');

const onUnix = process.platform === 'win32' ? test.skip : test;
const withReusePort = ['linux', 'darwin'].includes(process.platform) ? test : test.skip;

function temporary(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Resolves with whether a process listens on this Unix socket. */
async function accepts(file) {
  const socket = net.connect(file);
  const [error] = await once(socket, 'connect').catch((error) => [error]);
  socket.destroy();
  return error === undefined;
}

/** Starts a server in a process of its own, and kills it once it listens. */
async function leaveStale(file) {
  const program = `new (require(${JSON.stringify(require.resolve('..'))}).Server)({ port: process.argv[1] })
    .on('listening', () => console.log('listening'));`;
  const child = spawn(process.execPath, ['-e', program, file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  child.kill('SIGKILL');
  await once(child, 'exit');
}

onUnix('a server replaces the Unix socket of a process that was killed', async (t) => {
  const file = path.join(temporary(t), 'socket');
  await leaveStale(file);
  t.true(fs.existsSync(file));
  t.false(await accepts(file));
  const server = await startServer(t, { port: file });
  t.true(await accepts(file));
  await server.close();
  t.false(fs.existsSync(file));
});

onUnix('a Unix socket in use, and a file that is not a socket, are not replaced', async (t) => {
  const folder = temporary(t);
  const file = path.join(folder, 'socket');
  await startServer(t, { port: file });
  const text = path.join(folder, 'text');
  fs.writeFileSync(text, 'text');
  for (const taken of [file, text]) {
    const error = await t.throwsAsync(new WSMsgBroker.Server({ port: taken }).ready);
    t.is(error.code, 'EADDRINUSE');
    t.is(error.address, taken);
  }
  t.true(await accepts(file));
  t.is(fs.readFileSync(text, 'utf8'), 'text');
});

onUnix('a server that closes leaves the Unix socket of its successor', async (t) => {
  const file = path.join(temporary(t), 'socket');
  const first = await startServer(t, { port: file });
  fs.unlinkSync(file);
  await startServer(t, { port: file });
  await first.close();
  t.true(await accepts(file));
});

/** A broker of the command line that shares a port. */
async function startShared(t, port) {
  const cli = path.join(__dirname, '..', 'bin', 'wsbrokerserver.js');
  const flags = [String(port), '--host', '127.0.0.1', '--reuse-port', 'yes'];
  const child = spawn(process.execPath, [cli, ...flags], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  const lines = readline.createInterface({ input: child.stdout });
  await once(lines, 'line');
  return { child, lines };
}

withReusePort('two processes share a port with reusePort', async (t) => {
  const port = await lastingPort(t);
  const brokers = await Promise.all([startShared(t, port), startShared(t, port)]);
  const registered = brokers.map(({ lines }) => once(lines, 'line'));
  const clients = [];
  t.teardown(() => clients.map((client) => client.close()));
  let served = 0;
  registered.map((line) => line.then(() => (served += 1)));
  // Linux distributes connections; elsewhere it may prefer one of them.
  const expected = process.platform === 'linux' ? 2 : 1;
  while (served < expected) {
    const client = new WSMsgBroker(`c${clients.length}`, '127.0.0.1', port);
    clients.push(client);
    await once(client, 'registered');
  }
  t.pass();
  // The other one serves all once one is gone.
  brokers[0].child.kill('SIGKILL');
  await once(brokers[0].child, 'exit');
  const last = new WSMsgBroker('last', '127.0.0.1', port);
  clients.push(last);
  await once(last, 'registered');
});

withReusePort('without reusePort the second server fails', async (t) => {
  const { port } = (await startServer(t, { reusePort: true })).address();
  const options = { port, host: '127.0.0.1' };
  const error = await t.throwsAsync(new WSMsgBroker.Server(options).ready);
  t.is(error.code, 'EADDRINUSE');
  t.false(error.message.includes('reusePort'), 'not a worker of node:cluster');
  const second = new WSMsgBroker.Server({ ...options, reusePort: true });
  t.teardown(() => second.close());
  await second.ready;
});

test('in a worker of node:cluster the error of a port in use names reusePort', async (t) => {
  const { port } = (await startServer(t)).address();
  // A worker is a process with this variable.
  const program = path.join(temporary(t), 'worker.js');
  fs.writeFileSync(
    program,
    `const { Server } = require(${JSON.stringify(require.resolve('..'))});
    new Server({ port: ${port}, host: '127.0.0.1' }).ready.catch(({ code, message }) => {
      process.send({ code, message }, () => process.exit());
    });`,
  );
  const child = fork(program, { env: { ...process.env, NODE_UNIQUE_ID: '1' } });
  t.teardown(() => child.kill('SIGKILL'));
  for await (const [sent] of on(child, 'message')) {
    // Node.js sends messages of its own.
    if (sent.code !== undefined) {
      t.is(sent.code, 'EADDRINUSE');
      t.regex(sent.message, /reusePort/);
      break;
    }
  }
});

test('reusePort is refused for a Unix socket, and where the system has no such option', (t) => {
  const port = process.platform === 'linux' || process.platform === 'darwin' ? '/no/socket' : 0;
  const error = t.throws(() => new WSMsgBroker.Server({ port, reusePort: true }));
  t.is(error.code, 'ERR_WSMB_OPTION');
  t.regex(error.message, /reusePort/);
});

for (const [endpoint, escaped] of [
  ['/café', '/caf%C3%A9'],
  ['a b', '/a%20b'],
  ['/東京/"x"', '/%E6%9D%B1%E4%BA%AC/%22x%22'],
  ['/caf%c3%a9', '/caf%c3%a9'],
  ['/a|b', '/a%7Cb'],
]) {
  test(`a client reaches a server at ${endpoint}, by its path or by a URL`, async (t) => {
    const server = await startServer(t, { path: endpoint });
    t.is(server.wss.options.path, endpoint.startsWith('/') ? endpoint : `/${endpoint}`);
    const { port } = server.address();
    const origin = `ws://127.0.0.1:${port}`;
    for (const target of [
      ['127.0.0.1', port, endpoint],
      ['127.0.0.1', port, escaped],
      [new URL(endpoint, origin).href],
      [`${origin}${escaped}?x=1`],
    ]) {
      const client = new WSMsgBroker('a', ...target);
      await once(client, 'registered');
      await client.close();
    }
  });
}

test('a path that no request can have is refused', (t) => {
  for (const endpoint of ['/a?b', '?', '/a#b', '/\ud800']) {
    const error = t.throws(() => new WSMsgBroker.Server({ port: 0, path: endpoint }));
    t.is(error.code, 'ERR_WSMB_OPTION');
    t.regex(error.message, /path/);
  }
});
