'use strict';

const path = require('node:path');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const readline = require('node:readline');
const test = require('ava');
const { WSMsgBroker, startServer } = require('./support/start');

const CLI = path.join(__dirname, '..', 'bin', 'wsbrokerserver.js');

function run(t, ...args) {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

/** Exit code, stdout and stderr of a call that ends by itself. */
async function finish(t, ...args) {
  const child = run(t, ...args);
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) {
    child[name].on('data', (data) => {
      output[name] += data;
    });
  }
  const [code] = await once(child, 'close');
  return { code, ...output };
}

for (const signal of ['SIGINT', 'SIGTERM']) {
  test(`prints where it listens, who comes and who goes, and ends well on ${signal}`, async (t) => {
    const child = run(t, '0', 'foo', '--host', '127.0.0.1', '--max-payload', '1000');
    const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async () => (await lines.next()).value;
    const [, port] = /^WSMsgBroker server listening on 127.0.0.1:(\d+)\/foo$/.exec(await next());
    const client = new WSMsgBroker('a', '127.0.0.1', port, 'foo');
    t.is(await next(), ' + a');
    client.close();
    t.is(await next(), ' - a');
    const other = new WSMsgBroker('b', '127.0.0.1', port, 'foo');
    t.is(await next(), ' + b');
    const closed = once(other, 'close');
    child.kill(signal);
    t.deepEqual(await closed, [1001]);
    t.deepEqual(await once(child, 'exit'), [0, null]);
  });
}

test('prints its help and its version', async (t) => {
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
  // Arguments, and what only a program can say.
  const others = ['port', 'path', 'authenticate', 'authenticateTimeout'];
  const names = Object.entries(serverOptions).flatMap(([name, type]) => {
    const members = typeof type === 'object' && !Array.isArray(type) ? Object.keys(type) : [];
    return members.length > 0 ? members.map((member) => `${name}-${member}`) : [name];
  });
  for (const name of names.filter((name) => !others.includes(name))) {
    const flag = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    t.true(stdout.includes(`${flag} `), flag);
  }
});

test('says in one line what is wrong', async (t) => {
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
    [2, /--jwt-secret ENOENT/, '0', '--jwt-secret', '/no/such/file'],
    [2, /--jwt-require-exp is 'x'/, '0', '--jwt-require-exp', 'x'],
    [2, /jwt\.publicKey/, '0', '--jwt-public-key', __filename],
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
