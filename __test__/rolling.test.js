'use strict';

// Brokers behind a load balancer that checks their readiness are replaced one by one, while clients connect and send
// requests: no connection is refused, and no request is lost.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const net = require('node:net');
const { text } = require('node:stream/consumers');
const { setTimeout: sleep } = require('node:timers/promises');
const test = require('ava');
const { startNats } = require('../testkit/nats');
const { lastingPort } = require('../testkit/ports');
const { WSMsgBroker } = require('./support/start');

const HAPROXY = '/usr/sbin/haproxy';
const withHaproxy = fs.existsSync(HAPROXY) ? test : test.skip;
const CLI = path.join(__dirname, '..', 'bin', 'wsmsgbroker.js');

/** Time in which the load balancer notices that a broker leaves, in milliseconds: many of its checks. */
const DELAY = 2000;
const CHECK_INTERVAL = 50;

function folderOf(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Waits until `isTrue`, at most 60 s. */
async function until(what, isTrue) {
  for (const end = Date.now() + 60_000; Date.now() < end; await sleep(20)) {
    if (await isTrue()) return;
  }
  throw new Error(`not within 60 s: ${what}`);
}

/** The status of `/readyz`; 0 while there is no listener. */
async function readiness(admin) {
  const response = await fetch(`http://127.0.0.1:${admin}/readyz`, {
    headers: { connection: 'close' },
  }).catch(() => null);
  return response?.status ?? 0;
}

/** Starts a broker. Resolves when it is ready. */
async function startBroker(t, { port, admin, url }) {
  const flags = { nats: url, admin, 'drain-delay': DELAY, drain: 5_000 };
  const args = Object.entries(flags).map(([name, value]) => `--${name}=${value}`);
  const child = spawn(
    process.execPath,
    [CLI, 'serve', String(port), '--host=127.0.0.1', '--nats-required=yes', ...args],
    { stdio: 'ignore' },
  );
  t.teardown(() => child.kill('SIGKILL'));
  await until('the broker is ready', async () => (await readiness(admin)) === 200);
  return child;
}

/** Starts a load balancer. It does not try another broker if one refuses a connection. */
async function startBalancer(t, brokers) {
  const port = await lastingPort(t);
  const folder = folderOf(t);
  const [file, socket] = ['haproxy.cfg', 'socket'].map((name) => path.join(folder, name));
  const servers = brokers.map(
    ({ port: own, admin }, n) =>
      `  server b${n} 127.0.0.1:${own} check port ${admin} inter ${CHECK_INTERVAL}ms fall 1 rise 1`,
  );
  fs.writeFileSync(
    file,
    `global
  stats socket ${socket}
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  timeout check 2s
  retries 0
frontend in
  bind 127.0.0.1:${port}
  default_backend brokers
backend brokers
  option httpchk GET /readyz
  http-check send hdr Host localhost
${servers.join('\n')}
`,
  );
  const child = spawn(HAPROXY, ['-db', '-f', file], { stdio: 'ignore' });
  t.teardown(() => child.kill('SIGKILL'));
  const isReady = async () => {
    if (!fs.existsSync(socket)) return false;
    const admin = net.connect(socket).on('error', () => {});
    admin.end('show stat\n');
    const states = (await text(admin)).match(/^brokers,b\d,.*$/gm) ?? [];
    return states.length === brokers.length && states.every((line) => line.includes(',UP,'));
  };
  await until('the load balancer uses all brokers', isReady);
  return { port, isReady };
}

withHaproxy(
  'brokers are replaced one by one without a refused connection or a lost request',
  async (t) => {
    t.timeout(180_000);
    const { url } = await startNats(t);
    const brokers = [];
    for (let n = 0; n < 2; n += 1) {
      brokers.push({ port: await lastingPort(t), admin: await lastingPort(t), url });
    }
    const children = await Promise.all(brokers.map((broker) => startBroker(t, broker)));
    const { port, isReady } = await startBalancer(t, brokers);
    const connect = (id) => {
      const options = { protocol: 2, reconnect: true, resend: 'requests' };
      const client = new WSMsgBroker(id, '127.0.0.1', port, '/', options);
      t.teardown(() => client.close());
      return client.connected();
    };
    const worker = await connect('worker');
    worker.handle((message) => message);
    const asker = await connect('asker');

    let isOver = false;
    const failures = [];
    let [answered, connected] = [0, 0];
    const requests = async () => {
      while (!isOver) {
        try {
          const { message } = await asker.request(answered, 'worker', {
            waitFor: 20_000,
            timeout: 30_000,
          });
          if (message !== answered) failures.push(`answer ${message} to ${answered}`);
          answered += 1;
        } catch (error) {
          failures.push(`request: ${error.code} ${error.message}`);
        }
        await sleep(2);
      }
    };
    const connections = async () => {
      for (let n = 0; !isOver; n += 1) {
        const client = new WSMsgBroker(`visitor-${n}`, '127.0.0.1', port, '/', { protocol: 2 });
        try {
          await client.connected({ timeout: 20_000 });
          connected += 1;
        } catch (error) {
          failures.push(`connection: ${error.code} ${error.message}`);
        }
        await client.close();
        await sleep(5);
      }
    };
    const load = Promise.all([requests(), connections()]);

    for (const [n, broker] of brokers.entries()) {
      const before = { answered, connected };
      const exit = once(children[n], 'exit');
      children[n].kill('SIGTERM');
      await until('the broker is not ready', async () => (await readiness(broker.admin)) === 503);
      t.deepEqual(await exit, [0, null]);
      children[n] = await startBroker(t, broker);
      await until('the load balancer uses all brokers', isReady);
      await until(
        'traffic goes on',
        () => answered > before.answered + 50 && connected > before.connected + 20,
      );
    }
    isOver = true;
    await load;
    t.deepEqual(failures, []);
  },
);
