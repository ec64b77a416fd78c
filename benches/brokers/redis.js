'use strict';

// redis-server without persistence, for the nodes of Socket.IO. This process only starts it on a free port
// and ends it.

const { spawn } = require('node:child_process');
const net = require('node:net');
const readline = require('node:readline');
const { announce } = require('./stdio');

function fail(message) {
  console.error('error:', message);
  process.exit(1);
}

/** It cannot choose a free port itself. */
const probe = net.createServer().listen(0, '127.0.0.1', () => {
  const { port } = probe.address();
  probe.close(() => start(port));
});

function start(port) {
  const args = ['--bind', '127.0.0.1', '--port', String(port), '--save', '', '--appendonly', 'no'];
  const server = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  process.on('exit', () => server.kill('SIGKILL'));
  process.on('SIGTERM', () => process.exit(1));
  server.on('error', (error) => fail(error.message));
  server.on('exit', () => fail('redis-server has ended'));
  readline.createInterface({ input: server.stdout }).on('line', (line) => {
    if (!/Ready to accept connections/.test(line)) return;
    announce({ port, scheme: 'redis', pid: server.pid, hub: `redis://127.0.0.1:${port}` });
  });
}
