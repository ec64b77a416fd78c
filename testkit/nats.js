'use strict';

// Real NATS servers, each a process of its own on a port of the loopback to which it comes back: one
// alone, or several that are one cluster.

const { spawn } = require('node:child_process');
const crypto = require('node:crypto');
const { once } = require('node:events');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { json } = require('node:stream/consumers');
const { setTimeout: pause } = require('node:timers/promises');
const { lastingPort } = require('./ports');

const LATE_MS = 30_000;
const POLL_MS = 5;

const windows = process.platform === 'win32';
const root = path.join(__dirname, '..');
const program = windows ? 'nats-server.exe' : 'nats-server';

/** Where Debian puts its own, which is the older one. */
const OLD = ['/usr/sbin/nats-server', '/usr/bin/nats-server'];

const CANDIDATES = {
  old: () => OLD,
  new: () => {
    if (process.env.NATS_SERVER) return [process.env.NATS_SERVER];
    const folders = process.env.PATH.split(path.delimiter);
    const inPath = folders.map((folder) => path.join(folder, program));
    return [path.join(root, 'target', 'nats', program), ...inPath.filter((file) => !isOld(file))];
  },
};

/** Under any of its names: `/sbin` may be `/usr/sbin`. */
function isOld(file) {
  return fs.existsSync(file) && OLD.includes(fs.realpathSync(file));
}

const REMEDIES = {
  old: 'run `apt-get install nats-server`',
  new: 'run `node scripts/nats.js`, or set NATS_SERVER to the path of one',
};

/** The path of the program; there is no test without one. */
function executable(version) {
  const found = CANDIDATES[version]().find((file) => fs.existsSync(file));
  if (!found) throw new Error(`the ${version} nats-server is not installed: ${REMEDIES[version]}`);
  return found;
}

/** Waits a limited time until a condition is true. */
async function until(what, isTrue) {
  const deadline = Date.now() + LATE_MS;
  while (!(await isTrue())) {
    if (Date.now() > deadline) throw new Error(`still not: ${what()}`);
    await pause(POLL_MS);
  }
}

/** The first bytes from the server at this port, in clear text even with TLS; none if nothing arrives. */
function greeting(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    let text = '';
    socket.setEncoding('utf8');
    socket.setTimeout(LATE_MS, () => socket.destroy());
    socket.on('error', () => {});
    socket.on('close', () => resolve(undefined));
    socket.on('data', (chunk) => {
      text += chunk;
      if (!text.includes('\r\n')) return;
      resolve(JSON.parse(text.slice('INFO '.length, text.indexOf('\r\n'))));
      socket.destroy();
    });
  });
}

/** The `authorization` section; every client is accepted unless the options set credentials. */
function authorization({ user, pass, token, nkey }) {
  if (token) return { token };
  if (nkey) return { users: [{ nkey }, ...(user ? [{ user, password: pass }] : [])] };
  if (user) return { user, password: pass };
  return undefined;
}

class NatsServer {
  #file;
  #folder;
  #ports;
  #peers;
  #child;
  #guard;
  #ended;
  #isPaused = false;

  /** `ports`: of this server; `peers`: all servers of its cluster, as soon as they are made. */
  constructor(options, ports, peers, routes) {
    this.#file = executable(options.version ?? 'new');
    this.#folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-nats-'));
    this.#ports = ports;
    this.#peers = peers;
    this.name = `nats-${crypto.randomUUID()}`;
    this.port = ports.client;
    this.url = `${options.tls ? 'tls' : 'nats'}://127.0.0.1:${this.port}`;
    this.#configure(options, routes);
  }

  #configure(options, routes) {
    const { maxPayload, tls, config = '' } = options;
    const write = (name, text) => {
      const file = path.join(this.#folder, name);
      fs.writeFileSync(file, text);
      return file;
    };
    const settings = {
      server_name: this.name,
      listen: `127.0.0.1:${this.#ports.client}`,
      http: `127.0.0.1:${this.#ports.monitor}`,
      max_payload: maxPayload,
      authorization: authorization(options),
      tls: tls && {
        cert_file: write('cert.pem', tls.cert),
        key_file: write('key.pem', tls.key),
        ...(tls.ca && { ca_file: write('ca.pem', tls.ca), verify: true }),
      },
      cluster: routes && { name: 'test', listen: `127.0.0.1:${this.#ports.cluster}`, routes },
    };
    // Its own language has JSON in it, but for the braces around all.
    const lines = Object.entries(settings)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => `${key}: ${JSON.stringify(value)}\n`);
    write('nats.conf', `${lines.join('')}${config}\n`);
  }

  /** The log of all its starts. */
  get log() {
    return fs.readFileSync(path.join(this.#folder, 'log'), 'utf8');
  }

  get pid() {
    return this.#child?.pid;
  }

  get isRunning() {
    return this.#child !== undefined;
  }

  /** Whether it runs, and is not paused. */
  get isAwake() {
    return this.isRunning && !this.#isPaused;
  }

  /** Resolves when it takes clients and, in a cluster, has routes to all others that are awake. */
  async start() {
    if (this.isRunning) throw new Error(`${this.name} runs already`);
    const log = fs.openSync(path.join(this.#folder, 'log'), 'a');
    const child = spawn(this.#file, ['-c', path.join(this.#folder, 'nats.conf')], {
      stdio: ['ignore', log, log],
    });
    fs.closeSync(log);
    this.#isPaused = false;
    this.#child = child;
    this.#ended = new Promise((resolve) => {
      const ended = () => {
        this.#guard?.kill('SIGKILL');
        this.#child = undefined;
        resolve();
      };
      child.once('exit', ended);
      child.once('error', ended);
    });
    await once(child, 'spawn');
    this.#watch();
    await until(
      () => `${this.name} takes clients:\n${this.log}`,
      async () => {
        if (!this.isRunning) throw new Error(`${this.name} has ended:\n${this.log}`);
        const info = await greeting(this.port);
        // Somebody else may have been faster at this port.
        return info?.server_name === this.name;
      },
    );
    await this.routed();
  }

  /** Ends it even if our process is killed, and with it every teardown: what the shell reads ends then. */
  #watch() {
    if (windows) return;
    const script = 'read -r _; kill -KILL "$1"; rm -r "$2"';
    this.#guard = spawn('sh', ['-c', script, 'sh', String(this.pid), this.#folder], {
      stdio: ['pipe', 'ignore', 'ignore'],
    });
    this.#guard.stdin.on('error', () => {});
  }

  /** Resolves when it and all others of its cluster that are awake have routes to each other. */
  async routed() {
    const areRouted = async () => {
      const awake = this.#peers.filter((peer) => peer.isAwake);
      const pages = await Promise.all(awake.map((peer) => peer.monitor('routez')));
      return pages.every(({ server_id: own, routes }) => {
        const known = new Set([own, ...routes.map(({ remote_id }) => remote_id)]);
        return pages.every(({ server_id }) => known.has(server_id));
      });
    };
    await until(
      () => `${this.name} has all its routes:\n${this.log}`,
      // Another one may be about to start, or to end.
      () => areRouted().catch(() => false),
    );
  }

  /** A page of its monitoring port: `connz`, `routez`, `varz`, `subsz?subs=1` and so on. */
  async monitor(page) {
    const url = `http://127.0.0.1:${this.#ports.monitor}/${page}`;
    // A connection of its own: one that is kept may be from before a restart.
    const request = http.get(url, { agent: false, signal: AbortSignal.timeout(LATE_MS) });
    const [response] = await once(request, 'response');
    return json(response);
  }

  /**
   * Resolves when it knows that another server of its cluster has a subscription to this subject, as it is
   * in SUB: only then is what is published here sure to get there.
   */
  async knows(subject, other) {
    const { server_id } = await other.monitor('varz');
    await until(
      () => `${this.name} knows of ${subject} at ${other.name}`,
      async () => {
        const { routes } = await this.monitor('routez?subs=1');
        const subjects = routes
          .filter(({ remote_id }) => remote_id === server_id)
          .flatMap(({ subscriptions_list }) => subscriptions_list ?? []);
        return subjects.includes(subject);
      },
    );
  }

  /** Any signal that its documentation has a meaning for: SIGUSR2, say, for a lame duck. */
  signal(name) {
    this.#child?.kill(name);
  }

  /** It goes on to have its sockets, and says nothing; resolves when none of its threads runs. */
  async pause() {
    const { pid } = this;
    this.signal('SIGSTOP');
    this.#isPaused = true;
    if (process.platform !== 'linux') return;
    const isStopped = (thread) => {
      try {
        return /^State:\tT/m.test(fs.readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8'));
      } catch {
        // It has ended since.
        return false;
      }
    };
    await until(
      () => `${this.name} is paused`,
      () => fs.readdirSync(`/proc/${pid}/task`).every(isStopped),
    );
  }

  resume() {
    this.signal('SIGCONT');
    this.#isPaused = false;
  }

  /** Stops it gracefully: its clients are notified. Resolves when it has ended. */
  async stop() {
    if (!this.isRunning) return;
    if (this.#isPaused) this.resume();
    this.signal('SIGTERM');
    const late = setTimeout(() => this.signal('SIGKILL'), LATE_MS);
    await this.#ended;
    clearTimeout(late);
  }

  /** As it ends when its machine does; paused or not. */
  async kill() {
    this.signal('SIGKILL');
    await this.#ended;
  }

  /** Comes back at the same port, after it was stopped or killed, or from where it is. */
  async restart() {
    await this.stop();
    await this.start();
  }

  /** Ends it for good. */
  async dispose() {
    await this.stop();
    fs.rmSync(this.#folder, { recursive: true, force: true });
  }
}

async function startTogether(t, count, options) {
  const ports = [];
  for (let n = 0; n < count; n += 1) {
    const [client, monitor, cluster] = [
      await lastingPort(t),
      await lastingPort(t),
      await lastingPort(t),
    ];
    ports.push({ client, monitor, cluster });
  }
  const routes = count > 1 ? ports.map(({ cluster }) => `nats://127.0.0.1:${cluster}`) : undefined;
  const servers = [];
  // One after the other: two servers that fail to connect to each other at the same time retry a second later.
  for (const own of ports) {
    const server = new NatsServer(options, own, servers, routes);
    servers.push(server);
    t.teardown(() => server.dispose());
    await server.start();
  }
  return servers;
}

/**
 * A NATS server, until the test ends. All options may be left out:
 * - `version`: `new`, or `old` for Debian's
 * - `user` and `pass`, `token`, `nkey` (a public key): who is let in
 * - `tls`: `cert` and `key`; with a `ca`, clients must have a certificate of that
 * - `maxPayload`: in bytes
 * - `config`: more lines of its configuration
 */
async function startNats(t, options = {}) {
  const [server] = await startTogether(t, 1, options);
  return server;
}

/** So many of them, all connected with each other: an array. */
async function startNatsCluster(t, count = 3, options = {}) {
  return startTogether(t, count, options);
}

module.exports = {
  executable,
  startNats,
  startNatsCluster,
};
