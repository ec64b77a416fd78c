'use strict';

// nats-server with its own WebSocket listener and protocol. This process only starts it, determines its
// ports, and ends it.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { natsServer } = require('../driver/nats');
const { announce } = require('./stdio');

const framed = process.argv.includes('--framed');

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-nats-'));
const file = path.join(folder, 'nats.conf');
fs.writeFileSync(
  file,
  `listen: "127.0.0.1:-1"
ports_file_dir: ${JSON.stringify(folder)}
websocket { listen: "127.0.0.1:-1", no_tls: true, compression: false }
`,
);

const server = spawn(natsServer(), ['-c', file], {
  // Go determines the number of processors itself, but not reliably.
  env: { ...process.env, GOMAXPROCS: String(os.availableParallelism()) },
  stdio: ['ignore', 'ignore', 'pipe'],
});
process.on('exit', () => {
  server.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
});
process.on('SIGTERM', () => process.exit(1));

/** Reports errors in its log. Log lines about slow consumers are not errors. */
server.stderr.setEncoding('utf8').on('data', (text) => {
  for (const line of text.split('\n')) {
    if (/\[(ERR|FTL)\]/.test(line)) console.error('error:', line);
  }
});
server.on('error', (error) => fail(error.message));
server.on('exit', () => fail('nats-server has ended'));

function fail(message) {
  console.error('error:', message);
  process.exit(1);
}

const ports = path.join(folder, `nats-server_${server.pid}.ports`);
const timer = setInterval(() => {
  // The file exists shortly before it has contents.
  const text = fs.existsSync(ports) ? fs.readFileSync(ports, 'utf8') : '';
  if (text === '') return;
  clearInterval(timer);
  const { nats, websocket } = JSON.parse(text);
  const { port } = new URL(websocket[0]);
  const protocol = framed ? 'nats-framed' : 'nats';
  announce({ port, protocol, pid: server.pid, hub: nats[0] });
}, 5);
