'use strict';

// Runs in a network namespace of its own: NATS and a broker here, another broker behind a link that drops all
// packets for a while. Exits with 0 on success.

const assert = require('node:assert');
const { execFileSync, spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');
const WSMsgBroker = require('../../..');
const { executable } = require('../../../testkit/nats');

const HERE = '10.0.0.1';
const THERE = '10.0.0.2';
const ip = (words) => execFileSync('ip', words.split(' '));

/** Resolves when the condition holds. */
async function until(what, isTrue, ms = 20_000) {
  const end = Date.now() + ms;
  while (!(await isTrue())) {
    assert.ok(Date.now() < end, `timeout: ${what}`);
    await sleep(20);
  }
}

async function startNats() {
  const config = path.join(
    fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-apart-')),
    'nats.conf',
  );
  // A short form of the advice in docs/cluster.md: NATS drops a connection that is silent for two of these
  // intervals.
  fs.writeFileSync(config, 'listen: "0.0.0.0:4222"\nping_interval: "1s"\nping_max: 1\n');
  const nats = spawn(executable('new'), ['-c', config], { stdio: 'ignore' });
  process.on('exit', () => nats.kill('SIGKILL'));
  await until('NATS listens', async () => {
    const socket = net.connect(4222, HERE);
    const [isOpen] = await Promise.race([
      once(socket, 'connect').then(() => [true]),
      once(socket, 'error').then(() => [false]),
    ]).catch(() => [false]);
    socket.destroy();
    return isOpen;
  });
}

/** The other end of the link. Its broker follows commands and reports events. */
async function startThere() {
  const script = path.join(__dirname, 'there.js');
  const child = spawn('unshare', ['--net', '--', process.execPath, script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  process.on('exit', () => child.kill('SIGKILL'));
  const lines = readline.createInterface({ input: child.stdout });
  const reports = [];
  lines.on('line', (line) => reports.push(line));
  const reported = (line) => until(`report ${line}`, () => reports.includes(line));
  const command = (line) => child.stdin.write(`${line}\n`);
  await reported('ready');
  ip(`link add near type veth peer name far netns ${child.pid}`);
  ip(`addr add ${HERE}/24 dev near`);
  ip('link set near up');
  command(`join ${THERE} nats://${HERE}:4222`);
  await reported('joined');
  return { reported, command };
}

async function main() {
  ip('link set lo up');
  const there = await startThere();
  await startNats();
  const server = new WSMsgBroker.Server({
    port: 0,
    host: '127.0.0.1',
    nats: { servers: `nats://${HERE}:4222`, name: 'here', required: true },
  });
  await server.ready;
  await there.reported('connected');
  const url = `ws://127.0.0.1:${server.address().port}/`;
  const asker = await new WSMsgBroker('asker', url, { protocol: 2 }).connected();
  await until('both are known', () => server.cluster.brokers().length === 2);
  assert.deepEqual(await asker.request(1, 'y'), { from: 'y', message: 'y there' });

  const begun = Date.now();
  const waited = asker
    .request('wait', 'y', { timeout: 60_000 })
    .then(assert.fail, ({ code }) => code);
  await there.reported('asked to wait');
  ip('link set near down');
  // Its client connects here instead. Meanwhile a message may go to a lost connection, which its sender
  // learns.
  const x = await new WSMsgBroker('x', url, { protocol: 2 }).connected();
  x.on('message', (_message, response) => response?.send('x here'));
  assert.equal(await waited, 'GONE');
  assert.ok(Date.now() - begun < 12_000, 'a silent broker is given up in time');
  await until('messages to x arrive here', async () => {
    const { failed } = await asker.deliver(1, 'x');
    return failed.size === 0;
  });
  for (let n = 0; n < 20; n += 1) {
    assert.deepEqual(await asker.request(n, 'x'), { from: 'x', message: 'x here' });
  }
  // NATS reports that y has no subscriber before the broker's own timeout has passed.
  await until('the lost broker is forgotten', () => server.cluster.brokers().length === 1);
  assert.deepEqual(await server.cluster.has('y'), { has: false, broker: null, silent: [] });
  const lost = await asker.request(1, 'y').then(assert.fail, ({ code }) => code);
  assert.equal(lost, 'UNKNOWN_ID');
  await there.reported('disconnected');
  there.command('talk');
  await there.reported('x and y talk');

  ip('link set near up');
  await until('both are known again', () => server.cluster.brokers().length === 2);
  await there.reported('x was replaced');
  assert.deepEqual(await asker.request(1, 'y'), { from: 'y', message: 'y there' });
  assert.deepEqual(await asker.request(1, 'x'), { from: 'x', message: 'x here' });
  assert.equal((await server.cluster.has('x')).broker, 'here');
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
