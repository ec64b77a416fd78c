'use strict';

// A real Prometheus reads the admin endpoint, and the alerts of the monitoring guide fire.

const fs = require('node:fs');
const os = require('node:os');
const net = require('node:net');
const path = require('node:path');
const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const test = require('ava');
const { startNats } = require('../testkit/nats');
const { lastingPort } = require('../testkit/ports');
const { startServer } = require('./support/start');
const { upgrade, frame } = require('./support/upgrade');

/** Where Debian has the programs. */
const [PROMETHEUS, PROMTOOL] = ['prometheus', 'promtool'].map((name) => `/usr/bin/${name}`);
const withPrometheus = fs.existsSync(PROMETHEUS) ? test : test.skip;

const TOKEN = '0123456789abcdef';
const guide = fs.readFileSync(path.join(__dirname, '../docs/guides/monitoring.md'), 'utf8');

/** The block of the guide that begins with this line. */
function block(first) {
  const [, text] = new RegExp(`\`\`\`yaml\n(${first}:\n[\\s\\S]*?)\`\`\``).exec(guide);
  return text;
}

function folderOf(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Waits until `find` returns something. */
async function eventually(what, find) {
  for (const end = Date.now() + 30_000; Date.now() < end; await sleep(50)) {
    const found = await find();
    if (found) return found;
  }
  throw new Error(`not within 30 s: ${what}`);
}

const admin = { port: 0, token: TOKEN };

withPrometheus('promtool finds no fault in the metrics, with and without a cluster', async (t) => {
  const nats = { servers: 'nats://127.0.0.1:1' };
  for (const options of [{}, { nats }]) {
    const server = await startServer(t, { admin: { port: 0 }, ...options });
    server.on('cluster', () => {});
    const response = await fetch(`http://127.0.0.1:${server.adminAddress().port}/metrics`);
    const input = await response.text();
    const { stdout, stderr, status } = spawnSync(PROMTOOL, ['check', 'metrics'], { input });
    t.deepEqual([status, `${stdout}${stderr}`], [0, '']);
  }
});

withPrometheus('promtool finds no fault in the rules of the guide', (t) => {
  const file = path.join(folderOf(t), 'alerts.yml');
  fs.writeFileSync(file, block('groups'));
  const { stdout, stderr, status } = spawnSync(PROMTOOL, ['check', 'rules', file]);
  t.is(status, 0, `${stdout}${stderr}`);
  t.regex(`${stdout}`, /SUCCESS: 6 rules found/);
});

/** Starts Prometheus with the configuration of the guide, but with shorter times. Returns its URL. */
async function startPrometheus(t, target) {
  const folder = folderOf(t);
  const file = (name) => path.join(folder, name);
  fs.writeFileSync(file('token'), TOKEN);
  const rules = block('groups').replaceAll('for: 1m', 'for: 1s').replaceAll('[5m]', '[5s]');
  fs.writeFileSync(file('alerts.yml'), rules);
  const scrape = block('scrape_configs')
    .replace('/etc/prometheus/wsmsgbroker-token', file('token'))
    .replace(/targets: .*/, `targets: ['${target}']`);
  const config = `global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }
rule_files: [${file('alerts.yml')}]
${scrape}`;
  fs.writeFileSync(file('prometheus.yml'), config);
  const port = await lastingPort(t);
  const args = [
    `--config.file=${file('prometheus.yml')}`,
    `--storage.tsdb.path=${file('data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
  ];
  const child = spawn(PROMETHEUS, args, { stdio: 'ignore' });
  t.teardown(async () => {
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  const url = `http://127.0.0.1:${port}`;
  await eventually('Prometheus is ready', async () => {
    const response = await fetch(`${url}/-/ready`).catch(() => null);
    return response?.ok;
  });
  return url;
}

/** The alerts that fire. */
async function firing(url) {
  const response = await fetch(`${url}/api/v1/alerts`);
  const { data } = await response.json();
  return data.alerts
    .filter(({ state }) => state === 'firing')
    .map(({ labels }) => labels.alertname);
}

/** The value of an expression, or undefined. */
async function query(url, expression) {
  const response = await fetch(`${url}/api/v1/query?query=${encodeURIComponent(expression)}`);
  const { data } = await response.json();
  return data.result[0] && Number(data.result[0].value[1]);
}

/** Connects a client that reads nothing, and sends to it until it is closed as slow. */
async function hurt(t, server) {
  const socket = net.connect(server.address().port, '127.0.0.1').pause();
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  socket.write(upgrade('/'));
  socket.write(frame({ action: 'register', id: 'slow' }));
  await once(server, 'registered');
  const { slow } = server.stats();
  while (server.stats().slow === slow) {
    server.send('x'.repeat(100_000), 'slow');
    await sleep(1);
  }
}

withPrometheus(
  'Prometheus reads the metrics, and alerts fire for a slow consumer and a lost NATS',
  async (t) => {
    t.timeout(120_000);
    const nats = await startNats(t);
    const server = await startServer(t, {
      admin,
      slowConsumer: 'close',
      maxBackpressure: 1024,
      slowConsumerTimeout: 60_000,
      nats: { servers: nats.url },
    });
    server.on('cluster', () => {});
    server.on('registered', () => {});
    await server.client.connected();
    const url = await startPrometheus(t, `127.0.0.1:${server.adminAddress().port}`);
    await eventually(
      'a sample',
      async () => (await query(url, 'wsmsgbroker_cluster_connected')) === 1,
    );
    t.deepEqual(await firing(url), []);
    // Rates need a first sample.
    const closed = 'wsmsgbroker_connections_closed_total{reason="slow"}';
    await eventually('zero', async () => (await query(url, closed)) === 0);
    await hurt(t, server);
    await eventually('SlowConsumers', async () => (await firing(url)).includes('SlowConsumers'));
    t.is(await query(url, closed), 1);
    await nats.kill();
    await eventually('ClusterDisconnected', async () =>
      (await firing(url)).includes('ClusterDisconnected'),
    );
    t.false((await firing(url)).includes('EventLoopBlocked'));
    t.false((await firing(url)).includes('BrokerDown'));
    await server.close();
    await eventually('BrokerDown', async () => (await firing(url)).includes('BrokerDown'));
  },
);
