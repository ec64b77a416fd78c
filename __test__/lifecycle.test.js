'use strict';

// Start and end of processes, workers and objects. WSMB_REPEAT (default 20): repetitions of tests that depend
// on timing.

const net = require('node:net');
const path = require('node:path');
const { once } = require('node:events');
const { spawn } = require('node:child_process');
const { Worker } = require('node:worker_threads');
const test = require('ava');
const WSMsgBroker = require('..');

const REPEAT = Number(process.env.WSMB_REPEAT ?? 20);
const HANG_MS = 30_000;
const host = '127.0.0.1';

for (const [name, expected, error] of [
  ['exit', { code: 7, signal: null }],
  ['throw in a timer', { code: 1, signal: null }, /thrown on purpose/],
  ['throw in a listener', { code: 1, signal: null }, /thrown on purpose/],
]) {
  test(`a process under load ends by: ${name}`, async (t) => {
    t.timeout(REPEAT * HANG_MS);
    for (let n = 0; n < REPEAT; n += 1) {
      const ended = await run(name).end;
      t.like(ended, expected, ended.stderr);
      if (error) t.regex(ended.stderr, error);
    }
  });
}

test('a process under load ends by SIGTERM', async (t) => {
  t.timeout(REPEAT * HANG_MS);
  for (let n = 0; n < REPEAT; n += 1) {
    const child = run('flow');
    await child.said('flowing');
    child.kill('SIGTERM');
    const ended = await child.end;
    t.like(ended, { code: null, signal: 'SIGTERM' }, ended.stderr);
  }
});

test('a process under load ends by itself when SIGTERM closes everything', async (t) => {
  const child = run('close on SIGTERM');
  await child.said('flowing');
  child.kill('SIGTERM');
  t.like(await child.end, { code: 0, stderr: '' });
});

for (const name of ['close everything', 'close the server only']) {
  test(`a process ends by itself after: ${name}`, async (t) => {
    t.like(await run(name).end, { code: 0, stderr: '' });
  });
}

test('an open server keeps the process alive', async (t) => {
  t.like(await run('stay with a server').end, { code: 0, stdout: 'alive\n', stderr: '' });
});

test('an open client keeps the process alive', async (t) => {
  const server = await listen(t);
  const child = run('stay with a client', server.address().port);
  t.like(await child.end, { code: 0, stdout: 'alive\n', stderr: '' });
});

for (const count of [1, 100]) {
  test(`${count} messages sent in one tick before process.exit reach the receiver`, async (t) => {
    const server = await listen(t);
    const parent = await connect(t, server, 'parent');
    const received = [];
    parent.on('message', (message, response) => {
      received.push(message.n);
      response?.send(null);
    });
    for (let n = 0; n < REPEAT; n += 1) {
      received.length = 0;
      const gone = once(server, 'unregistered');
      const ended = await run('send and exit', server.address().port, count).end;
      t.like(ended, { code: 0, stderr: '' });
      t.deepEqual(await gone, ['child']);
      // The messages of the child were routed before it exited, and so before this one.
      await new Promise((resolve) => parent.send({}, 'parent', resolve));
      t.deepEqual(received, [...Array(count).keys(), undefined]);
    }
  });
}

test('an unreferenced open server and client survive garbage collection', async (t) => {
  t.like(await run('collect garbage').end, { code: 0, stdout: 'answered\n', stderr: '' });
});

test('an exception of a listener is an uncaughtException, and the next event still arrives', async (t) => {
  const ended = await run('survive a listener that throws').end;
  t.like(ended, { code: 0, stdout: 'survived\n', stderr: '' });
});

test('worker threads load, use and end the addon under traffic', async (t) => {
  t.timeout(REPEAT * HANG_MS);
  const ended = await run('end workers', REPEAT).end;
  t.like(ended, { code: 0, stdout: 'ended\n', stderr: '' });
});

test('several environments use the addon at the same time', async (t) => {
  t.like(await run('share with workers').end, { code: 0, stdout: 'shared\n', stderr: '' });
});

test('a port can be closed and listened on again within one tick', async (t) => {
  const first = new WSMsgBroker.Server({ port: 0, host });
  const { port } = first.address();
  first.on('listening', () => t.fail('a closed server listens'));
  first.close();
  const second = new WSMsgBroker.Server({ port, host });
  await once(second, 'listening');
  const client = await connect(t, second, 'client');

  second.close();
  const third = new WSMsgBroker.Server({ port, host });
  t.teardown(() => third.close());
  await Promise.all([once(third, 'listening'), once(client, 'close')]);
  t.is(third.address().port, port);
  await connect(t, third, 'client');
});

test('close right after new opens nothing', async (t) => {
  let connections = 0;
  const probe = net.createServer((socket) => {
    connections += 1;
    socket.destroy();
  });
  await once(probe.listen(0, host), 'listening');
  t.teardown(() => probe.close());
  const { port } = probe.address();

  const client = new WSMsgBroker('client', host, port);
  for (const event of ['open', 'registered', 'error']) client.on(event, () => t.fail(event));
  await client.close();

  // Connections are accepted in order, so any earlier one was counted before this one.
  await once(net.connect(port, host), 'close');
  t.is(connections, 1);
});

test('a close without drain ends a drain', async (t) => {
  const server = await listen(t);
  const asker = await connect(t, server, 'asker');
  const silent = await connect(t, server, 'silent');
  const asked = once(silent, 'message');
  asker.send('who?', 'silent', () => t.fail('an answer'));
  await asked;
  const drained = server.close({ drain: 3_600_000 });
  t.is(server.address(), null);
  t.like(server.stats(), { connections: 2, pending: 1 });
  const gone = once(asker, 'close');
  await server.close();
  t.deepEqual(await gone, [1001, 'server is closing']);
  await drained;
  t.is(server.stats(), null);
});

test('a draining server ends with its worker thread', async (t) => {
  const worker = new Worker(path.join(__dirname, 'lifecycle', 'drain.js'));
  const [port] = await once(worker, 'message');
  const client = new WSMsgBroker('client', host, port);
  t.teardown(() => client.close());
  await once(client, 'registered');
  client.send('who?', 'client', () => t.fail('an answer'));
  await once(client, 'message');
  worker.postMessage('drain');
  await once(worker, 'message');
  const gone = once(client, 'close');
  await worker.terminate();
  await gone;
  t.pass();
});

async function listen(t) {
  const server = new WSMsgBroker.Server({ port: 0, host });
  t.teardown(() => server.close());
  await once(server, 'listening');
  return server;
}

async function connect(t, server, id) {
  const client = new WSMsgBroker(id, host, server.address().port);
  t.teardown(() => client.close());
  await once(client, 'registered');
  return client;
}

// Starts a program of lifecycle/programs.js. `end` resolves with its exit. A program that hangs is killed and
// ends by SIGKILL.
function run(name, ...args) {
  const programs = path.join(__dirname, 'lifecycle', 'programs.js');
  const child = spawn(process.execPath, ['--expose-gc', programs, name, ...args.map(String)], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: HANG_MS * (name === 'end workers' ? REPEAT : 1),
    killSignal: 'SIGKILL',
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const end = once(child, 'close').then(([code, signal]) => ({ code, signal, stdout, stderr }));
  return {
    end,
    kill: (signal) => child.kill(signal),
    said: async (text) => {
      while (!stdout.includes(text)) {
        await Promise.race([
          once(child.stdout, 'data'),
          end.then(({ stderr }) => Promise.reject(new Error(stderr))),
        ]);
      }
    },
  };
}
