'use strict';

// nats-server with its own WebSocket listener and its own protocol. This process only starts it, learns
// its port, and ends it.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { announce } = require('./stdio');

/** What the driver has downloaded, or that of the system. */
const own = path.join(__dirname, '../.tools/nats-server');
const command = fs.existsSync(own) ? own : 'nats-server';
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

const server = spawn(command, ['-c', file], {
  // Go takes the number of processors by itself, but that it does is not to be relied on.
  env: { ...process.env, GOMAXPROCS: String(os.availableParallelism()) },
  stdio: ['ignore', 'ignore', 'pipe'],
});
process.on('exit', () => {
  server.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
});
process.on('SIGTERM', () => process.exit(1));

/** Its log says what went wrong; a slow consumer is told in the same way, and is none of that. */
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
  if (!fs.existsSync(ports)) return;
  clearInterval(timer);
  const { websocket } = JSON.parse(fs.readFileSync(ports));
  const protocol = framed ? 'nats-framed' : 'nats';
  announce({ port: new URL(websocket[0]).port, protocol, pid: server.pid });
}, 5);
