'use strict';

// A cluster of three brokers and a nats-server, each in its own process. One broker is killed while clients at
// different brokers exchange requests and messages. Prints the outcome; the exit code is 0 if the guarantees of
// docs/cluster.md held.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { setTimeout: pause } = require('node:timers/promises');
const WSMsgBroker = require('wsmsgbroker');
const { Roamer } = require('./roamer');

const root = path.join(__dirname, '..', '..');
/** Time limit of the demo, ms. */
const LIMIT = 18_000;
/** Interval between two messages of a sender, ms. */
const EVERY = 5;
/** Range in which a request to an id that moved fails, ms after the id has registered again. */
const GONE_WITHIN = [900, 3_000];

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-demo-'));
const children = [];

/** Starts a program that is killed when this one ends. */
function start(file, args, stdio) {
  const child = spawn(file, args, { stdio });
  children.push(child);
  return child;
}

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  fs.rmSync(folder, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

/** The path of nats-server: from NATS_SERVER, in target/nats, or in the PATH. */
function findNats() {
  const name = process.platform === 'win32' ? 'nats-server.exe' : 'nats-server';
  // Debian installs it in /usr/sbin, which may be missing in the PATH.
  const folders = [...process.env.PATH.split(path.delimiter), '/usr/sbin'];
  const files = [path.join(root, 'target', 'nats'), ...folders].map((at) => path.join(at, name));
  return [process.env.NATS_SERVER, ...files].find((file) => file && fs.existsSync(file));
}

/** Starts nats-server at a free port. Resolves with its address. */
async function startNats(file) {
  const args = ['-a', '127.0.0.1', '-p', '-1', '--ports_file_dir', folder];
  const child = start(file, args, 'ignore');
  let isRunning = true;
  child.on('exit', () => {
    isRunning = false;
  });
  await once(child, 'spawn');
  const ports = path.join(folder, `${path.basename(file)}_${child.pid}.ports`);
  while (isRunning) {
    try {
      // An incomplete file is not valid JSON.
      return JSON.parse(fs.readFileSync(ports, 'utf8')).nats[0];
    } catch {
      await pause(10);
    }
  }
  throw new Error(`${file} has ended with exit code ${child.exitCode}`);
}

/** Starts `wsbrokerserver` at a free port. Resolves when it has joined the cluster. */
async function startBroker(name, nats) {
  const program = path.join(root, 'bin', 'wsbrokerserver.js');
  const flags = ['--host', '127.0.0.1', '--nats', nats, '--nats-name', name];
  const args = [program, '0', ...flags, '--nats-required', 'yes'];
  const child = start(process.execPath, args, ['ignore', 'pipe', 'inherit']);
  const [line] = await once(readline.createInterface({ input: child.stdout }), 'line');
  const [, port] = /:(\d+)\/$/.exec(line);
  return { name, child, url: `ws://127.0.0.1:${port}/` };
}

/** Sends requests to one id at a fixed rate, and counts the outcomes. */
class Requester {
  answered = 0;
  failed = new Map();
  #client;
  #dest;
  #timer;
  #open = new Set();
  /** `again()` resolves with the first answer to a request sent after this time. */
  #since = Number.POSITIVE_INFINITY;
  #resolve;

  constructor(client, dest) {
    this.#client = client;
    this.#dest = dest;
    let n = 0;
    this.#timer = setInterval(() => {
      n += 1;
      const asked = this.#ask(n);
      this.#open.add(asked);
      asked.then(() => this.#open.delete(asked));
    }, EVERY);
  }

  async #ask(n) {
    const at = performance.now();
    try {
      await this.#client.request(n, this.#dest);
      this.answered += 1;
      if (at > this.#since) this.#resolve();
    } catch ({ code }) {
      this.failed.set(code, (this.failed.get(code) ?? 0) + 1);
    }
  }

  /** Resolves when a request sent from now on is answered. */
  again() {
    this.#since = performance.now();
    return new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Stops, and resolves when no request is pending. */
  async end() {
    clearInterval(this.#timer);
    await Promise.all(this.#open);
  }

  toString() {
    const count = [...this.failed.values()].reduce((sum, n) => sum + n, 0);
    const codes = [...this.failed.keys()].sort().join(', ');
    return `${this.answered} answered, ${count} failed${codes && ` with ${codes}`}`;
  }
}

const faults = [];

/** Records a violated expectation. */
function expect(holds, what) {
  if (!holds) faults.push(what);
}

const ms = (time) => `${Math.round(time)} ms`;

async function main() {
  const file = findNats();
  if (!file) {
    console.error(
      'no nats-server found: `node scripts/nats.js` or your system installs one, ' +
        'or set NATS_SERVER to the path of one',
    );
    process.exit(1);
  }
  setTimeout(() => {
    console.error(`not done after ${ms(LIMIT)}`);
    process.exit(1);
  }, LIMIT).unref();

  const nats = await startNats(file);
  const brokers = await Promise.all(
    ['red', 'green', 'blue'].map((name) => startBroker(name, nats)),
  );
  const [red, green, blue] = brokers;
  const nameOf = (url) => brokers.find((broker) => broker.url === url).name;
  console.log('one nats-server and a cluster of three brokers: red, green and blue');

  // Each number that bob or carol gets must be delivered once.
  const asked = { count: 0, all: new Set() };
  const received = [];
  let gotLast;
  const last = new Promise((resolve) => {
    gotLast = resolve;
  });
  const alice = await new WSMsgBroker('alice', red.url, { protocol: 2 }).connected();
  const carol = new WSMsgBroker('carol', blue.url, { protocol: 2 });
  carol.on('message', (message, response) => {
    if (response) {
      response?.send(message);
    } else if (message === 'last') {
      gotLast();
    } else if (typeof message === 'number') {
      received.push(message);
    }
  });
  await carol.connected();
  const bob = new Roamer('bob', [green.url, blue.url, red.url], (client) => {
    client.on('message', (message, response) => {
      // A request that stays pending.
      if (message === 'dig a tunnel') return;
      asked.count += 1;
      asked.all.add(message);
      response?.send(message);
    });
  });
  await once(bob, 'home');
  const dave = new Roamer('dave', [green.url, red.url]);
  await once(dave, 'home');
  console.log('alice is at red, bob and dave are at green, carol is at blue');

  const requests = { bob: new Requester(alice, 'bob'), carol: new Requester(alice, 'carol') };
  let sent = 0;
  const sending = setInterval(() => {
    try {
      bob.client.send(sent + 1, 'carol');
      sent += 1;
    } catch {
      // The client is closed and the next one not created yet: the number is sent later.
    }
  }, EVERY);
  console.log('alice sends requests to bob and carol, bob sends numbers to carol');
  await pause(1_000);
  expect(requests.bob.failed.size === 0, 'no request fails before the fault');

  // Two requests that are pending when the broker is killed.
  const failure = async (dest) => {
    const error = await alice.request('dig a tunnel', dest).catch((error) => error);
    return [error.code, performance.now()];
  };
  const [tunnel, other] = ['bob', 'dave'].map(failure);
  await pause(100);
  const home = once(bob, 'home');
  const otherHome = once(dave, 'home').then(([url]) => [url, performance.now()]);
  green.child.kill('SIGKILL');
  const killed = performance.now();
  const since = () => performance.now() - killed;
  console.log('green is killed');

  const [code, when] = await tunnel;
  console.log(`the pending request to bob has failed after ${ms(when - killed)}: ${code}`);
  expect(code === 'GONE', 'the pending request to bob fails with GONE');
  const again = requests.bob.again();
  const [url] = await home;
  console.log(`bob has registered at ${nameOf(url)} after ${ms(since())}`);
  await again;
  console.log(`bob answers requests again after ${ms(since())}`);
  expect(since() < 2_000, 'bob answers again within 2 s');
  const [[otherUrl, at], [otherCode, otherWhen]] = await Promise.all([otherHome, other]);
  console.log(`dave has registered at ${nameOf(otherUrl)} after ${ms(at - killed)}`);
  console.log(`the pending request to dave has failed ${ms(otherWhen - at)} later: ${otherCode}`);
  expect(otherCode === 'GONE', 'the pending request to dave fails with GONE');
  const took = otherWhen - at;
  expect(took > GONE_WITHIN[0] && took < GONE_WITHIN[1], 'it fails about 1 s later');

  clearInterval(sending);
  await Promise.all([requests.bob.end(), requests.carol.end()]);
  // Delivered after all numbers: messages from one client to another stay in order.
  bob.client.send('last', 'carol');
  await last;
  const { delivered } = await bob.client.deliver('bye', ['alice', 'carol', 'dave']);
  const [twice, late] = [
    asked.count - asked.all.size,
    received.filter((n, at) => n <= received[at - 1]),
  ];
  console.log(`requests to bob: ${requests.bob}; delivered twice: ${twice}`);
  console.log(`requests to carol: ${requests.carol}`);
  console.log(
    `numbers to carol: ${sent} sent, ${received.length} delivered; out of order or twice: ${late.length}`,
  );
  console.log(`bob, now at ${nameOf(url)}, reaches ${delivered.sort().join(', ')}`);
  expect(twice === 0, 'no request is delivered to bob twice');
  expect(asked.all.size >= requests.bob.answered, 'every answered request was delivered');
  const codes = [...requests.bob.failed.keys()];
  expect(
    codes.every((one) => ['GONE', 'UNKNOWN_ID'].includes(one)),
    'requests to bob fail with GONE or UNKNOWN_ID only',
  );
  expect(requests.carol.failed.size === 0, 'no request to another broker fails');
  expect(late.length === 0, 'numbers are delivered in order, none twice');
  expect(received.at(-1) === sent, 'the last number is delivered');
  expect(delivered.length === 3, 'all ids are reachable in the end');

  await Promise.all([alice.close(), carol.close(), bob.close(), dave.close()]);
  for (const what of faults) console.log(`NOT: ${what}`);
  console.log(faults.length === 0 ? 'all guarantees held' : 'not all guarantees held');
  process.exit(faults.length === 0 ? 0 : 1);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
