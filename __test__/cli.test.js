'use strict';

// The command `wsbrokerserver`: its flags, its help, and errors of its command line.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { once } = require('node:events');
const test = require('ava');
const { startNats } = require('../testkit/nats');
const { run, finish, broker } = require('./support/command');
const { WSMsgBroker, startServer } = require('./support/start');

const IPV6 = Object.values(os.networkInterfaces())
  .flat()
  .some(({ address }) => address === '::1');
const ANY = ['0.0.0.0', '0', ...(IPV6 ? ['::', '::0', '0:0:0:0:0:0:0:0', '::ffff:0.0.0.0'] : [])];
const LOCAL = ['127.0.0.1', 'localhost', ...(IPV6 ? ['::1'] : [])];

for (const host of [...ANY, ...LOCAL]) {
  const warns = ANY.includes(host);
  test(`on ${host} it ${warns ? 'warns' : 'does not warn'} that any client may register`, async (t) => {
    const child = run(t, '0', '--host', host);
    let stderr = '';
    child.stderr.on('data', (data) => {
      stderr += data;
    });
    const ended = once(child, 'close');
    await once(child.stdout, 'data');
    child.kill('SIGINT');
    t.deepEqual(await ended, [0, null]);
    t.is(stderr.includes('any client that can reach this machine may register'), warns, stderr);
    t.is(stderr.split('\n').length, warns ? 2 : 1, stderr);
  });
}

test('an unknown flag is reported with the one that is meant', async (t) => {
  for (const [flag, meant] of [
    ['--max-payloads', '--max-payload'],
    ['--maxPayload', '--max-payload'],
    ['--jwt-secrt', '--jwt-secret'],
    ['--drian', '--drain'],
  ]) {
    const { code, stderr } = await finish(t, '0', flag, '1');
    t.is(code, 2);
    t.true(stderr.includes(`did you mean ${meant}?`), stderr);
  }
  const { stderr } = await finish(t, '0', '--nothing', '1');
  t.false(stderr.includes('did you mean'), stderr);
});

test('prints help and version', async (t) => {
  const help = await finish(t, '--help');
  t.is(help.code, 0);
  t.regex(help.stdout, /Usage: wsbrokerserver <port> \[path\]/);
  for (const limit of ['--max-payload', '--slow-consumer-timeout', '--ack-timeout', '--threads']) {
    t.true(help.stdout.includes(limit), limit);
  }
  const version = await finish(t, '--version');
  t.deepEqual(version, { code: 0, stdout: `${require('../package.json').version}\n`, stderr: '' });
});

test('has a flag for every option of the server', async (t) => {
  const { serverOptions } = require('../lib/options');
  const { stdout } = await finish(t, '--help');
  // Arguments, and options that only a program can set.
  const others = ['port', 'path', 'id', 'authenticate', 'authenticateTimeout', 'authorize'];
  others.push('fd', 'server', 'noServer', 'allowUpgrade', 'logger');
  const without = ['--nats-user', '--nats-pass', '--nats-timeout', '--admin-fd'];
  const names = Object.entries(serverOptions).flatMap(([name, type]) => {
    const members = typeof type === 'object' && !Array.isArray(type) ? Object.keys(type) : [];
    return members.length > 0 ? members.map((member) => `${name}-${member}`) : [name];
  });
  for (const name of names.filter((name) => !others.includes(name))) {
    const own = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    const flag = { '--nats-servers': '--nats', '--admin-port': '--admin' }[own] ?? own;
    t.is(stdout.includes(`${flag} `), !without.includes(flag), flag);
  }
});

test('brokers with the same NATS form a cluster, and stderr shows its state', async (t) => {
  const [user, pass] = ['broker', 'sesame'];
  const { url } = await startNats(t, { user, pass });
  const address = url.replace('//', `//${user}:${pass}@`);
  const start = async (name) => {
    const flags = ['--nats-name', name, '--nats-namespace', 'cli', '--nats-required', 'yes'];
    // No server listens at the first address.
    const started = await broker(t, '--nats', 'nats://127.0.0.1:1', '--nats', address, ...flags);
    const lines = readline.createInterface({ input: started.child.stderr });
    return { ...started, errors: lines[Symbol.asyncIterator]() };
  };
  const brokers = await Promise.all(['one', 'two'].map(start));
  const [near, far] = brokers.map(({ port }, n) => {
    const client = new WSMsgBroker(`c${n}`, '127.0.0.1', port, '/', { protocol: 2 });
    t.teardown(() => client.close());
    return client;
  });
  await Promise.all([near.connected(), far.connected()]);
  far.on('message', (message, response) => response.send(message));
  t.deepEqual(await near.request('hi', 'c1'), { from: 'c1', message: 'hi' });
  for (const { errors } of brokers) {
    let line;
    // A line about the unreachable first address may come before.
    do line = (await errors.next()).value;
    while (line.startsWith('wsbrokerserver: cluster failed ('));
    t.is(line, 'wsbrokerserver: cluster connected');
  }
  const ended = once(brokers[0].child, 'exit');
  brokers[0].child.kill('SIGTERM');
  t.deepEqual(await ended, [0, null]);
});

test('reads a token from the first line of a file, and exits if the required NATS is unreachable', async (t) => {
  const { url } = await startNats(t, { token: 'sesame' });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-cli-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'token');
  const flags = ['--nats', url, '--nats-token', file, '--nats-required', 'yes'];
  fs.writeFileSync(file, 'sesame\r\nand more\n');
  const { child } = await broker(t, ...flags);
  child.kill('SIGINT');
  fs.writeFileSync(file, 'wrong\n');
  const { code, stdout, stderr } = await finish(t, '0', '--host', '127.0.0.1', ...flags);
  t.is(code, 1);
  t.is(stdout, '');
  t.regex(stderr, /^wsbrokerserver: cluster missing \(/m);
  t.regex(stderr, /^wsbrokerserver: NATS cannot be reached within 5000 ms: /m);
  t.false(stderr.includes('sesame') || stderr.includes('wrong'), stderr);
});

test('reports a usage error in one line', async (t) => {
  const server = await startServer(t);
  const taken = String(server.address().port);
  for (const [code, pattern, ...args] of [
    [2, /expected <port>/],
    [2, /expected <port>/, '1', '2', '3'],
    [2, /--nothing/, '0', '--nothing'],
    [2, /--max-dest is 'x'/, '0', '--max-dest', 'x'],
    [2, /maxDest/, '0', '--max-dest', '0'],
    [2, /slowConsumer/, '0', '--slow-consumer', 'x'],
    [2, /rateLimit.bytes/, '0', '--rate-limit-bytes', '0'],
    [2, /--drain is 'x'/, '0', '--drain', 'x'],
    [
      2,
      /--jwt-secret is no file that can be read \(ENOENT\)/,
      '0',
      '--jwt-secret',
      '/no/such/file',
    ],
    [2, /--jwt-require-exp is 'x'/, '0', '--jwt-require-exp', 'x'],
    [2, /jwt\.publicKey/, '0', '--jwt-public-key', __filename],
    [2, /nats\.servers/, '0', '--nats-namespace', 'blue'],
    [2, /nats\.namespace/, '0', '--nats', '127.0.0.1:1', '--nats-namespace', 'a.b'],
    [
      2,
      /nats\.creds.*ENOENT|nats\.creds.*No such file/i,
      '0',
      '--nats',
      'a',
      '--nats-creds',
      '/no/such/file',
    ],
    [
      2,
      /--nats-token is no file that can be read \(ENOENT\)/,
      '0',
      '--nats',
      'a',
      '--nats-token',
      '/no/such/file',
    ],
    [
      2,
      /"nats.token" and "nats.nkey"/,
      '0',
      '--nats',
      'a',
      '--nats-token',
      __filename,
      '--nats-nkey',
      __filename,
    ],
    [2, /--nats-tls is 'x'/, '0', '--nats', 'a', '--nats-tls', 'x'],
    [2, /70000/, '70000'],
    [1, /EADDRINUSE/, taken, '--host', '127.0.0.1'],
  ]) {
    const { code: found, stdout, stderr } = await finish(t, ...args);
    t.is(found, code, args.join(' '));
    t.regex(stderr, pattern);
    t.is(stderr.trim().split('\n').length, 1, stderr);
    t.is(stdout, '');
  }
});
