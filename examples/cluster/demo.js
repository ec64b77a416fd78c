'use strict';

// Three brokers that are one over a nats-server, each a process of its own. While clients at different
// brokers ask each other and send to each other, one broker is killed. What is printed is what happened;
// the exit code is 0 if what docs/cluster.md promises held.

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
/** All of it ends by then, ms. */
const LIMIT = 18_000;
/** How often each sends, ms. */
const EVERY = 5;
/** How long the former broker of an id may still answer, and time to notice, ms. */
const GONE_WITHIN = [900, 3_000];

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-demo-'));
const children = [];

/** A program that ends when this one does. */
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

/** Where nats-server is: a path in NATS_SERVER, in target/nats, or in the PATH. */
function findNats() {
  const name = process.platform === 'win32' ? 'nats-server.exe' : 'nats-server';
  // Debian has it where not everybody looks.
  const folders = [...process.env.PATH.split(path.delimiter), '/usr/sbin'];
  const files = [path.join(root, 'target', 'nats'), ...folders].map((at) => path.join(at, name));
  return [process.env.NATS_SERVER, ...files].find((file) => file && fs.existsSync(file));
}

/** A nats-server at a free port; resolves with its address. */
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
      // Half of a file is no JSON.
      return JSON.parse(fs.readFileSync(ports, 'utf8')).nats[0];
    } catch {
      await pause(10);
    }
  }
  throw new Error(`${file} has ended with exit code ${child.exitCode}`);
}

/** `wsbrokerserver` at a free port; resolves when it is one with the others. */
async function startBroker(name, nats) {
  const program = path.join(root, 'bin', 'wsbrokerserver.js');
  const flags = ['--host', '127.0.0.1', '--nats', nats, '--nats-name', name];
  const args = [program, '0', ...flags, '--nats-required', 'yes'];
  const child = start(process.execPath, args, ['ignore', 'pipe', 'inherit']);
  const [line] = await once(readline.createInterface({ input: child.stdout }), 'line');
  const [, port] = /:(\d+)\/$/.exec(line);
  return { name, child, url: `ws://127.0.0.1:${port}/` };
}

/** Asks one id again and again, and counts what comes of it. */
class Asker {
  answered = 0;
  failed = new Map();
  #client;
  #dest;
  #timer;
  #open = new Set();
  /** When an answer last came to what was asked after that time. */
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

  /** Resolves when something that is asked from now on is answered. */
  again() {
    this.#since = performance.now();
    return new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Resolves when all that was asked has come to its end. */
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

/** Notes what does not hold. */
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
  console.log('one nats-server, and three brokers that are one: red, green and blue');

  // Who is where. Each number that bob is asked, and each that carol is sent, is to come once.
  const asked = { count: 0, all: new Set() };
  const heard = [];
  let isTheLast;
  const last = new Promise((resolve) => {
    isTheLast = resolve;
  });
  const alice = await new WSMsgBroker('alice', red.url, { protocol: 2 }).connected();
  const carol = new WSMsgBroker('carol', blue.url, { protocol: 2 });
  carol.on('message', (message, response) => {
    if (response) {
      response.send(message);
    } else if (message === 'last') {
      isTheLast();
    } else if (typeof message === 'number') {
      heard.push(message);
    }
  });
  await carol.connected();
  const bob = new Roamer('bob', [green.url, blue.url, red.url], (client) => {
    client.on('message', (message, response) => {
      // It never answers this one.
      if (message === 'dig a tunnel') return;
      asked.count += 1;
      asked.all.add(message);
      response.send(message);
    });
  });
  await once(bob, 'home');
  const dave = new Roamer('dave', [green.url, red.url]);
  await once(dave, 'home');
  console.log('alice is at red, bob and dave are at green, carol is at blue');

  const askers = { bob: new Asker(alice, 'bob'), carol: new Asker(alice, 'carol') };
  let sent = 0;
  const sending = setInterval(() => {
    try {
      bob.client.send(sent + 1, 'carol');
      sent += 1;
    } catch {
      // Between two brokers there is nobody to send it to: it is sent later.
    }
  }, EVERY);
  console.log('alice asks bob and carol, bob sends numbers to carol');
  await pause(1_000);
  expect(askers.bob.failed.size === 0, 'nothing fails while all is well');

  // Something of each kind is under way.
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
  console.log(`what bob was working on for alice has failed after ${ms(when - killed)}: ${code}`);
  expect(code === 'GONE', 'what bob was working on is GONE');
  const again = askers.bob.again();
  const [url] = await home;
  console.log(`bob is at ${nameOf(url)} after ${ms(since())}`);
  await again;
  console.log(`bob answers alice again after ${ms(since())}`);
  expect(since() < 2_000, 'bob is served again within 2 s');
  const [[otherUrl, at], [otherCode, otherWhen]] = await Promise.all([otherHome, other]);
  console.log(`dave, whom nobody asked since, is at ${nameOf(otherUrl)} after ${ms(at - killed)}`);
  console.log(`what he was working on has failed ${ms(otherWhen - at)} later: ${otherCode}`);
  expect(otherCode === 'GONE', 'what dave was working on is GONE');
  const took = otherWhen - at;
  expect(took > GONE_WITHIN[0] && took < GONE_WITHIN[1], 'it fails about 1 s later');

  clearInterval(sending);
  await Promise.all([askers.bob.end(), askers.carol.end()]);
  // Behind all numbers: what is sent to one id from one comes in order.
  bob.client.send('last', 'carol');
  await last;
  const { delivered } = await bob.client.deliver('bye', ['alice', 'carol', 'dave']);
  const [twice, late] = [asked.count - asked.all.size, heard.filter((n, at) => n <= heard[at - 1])];
  console.log(`alice asked bob: ${askers.bob}; asked twice: ${twice}`);
  console.log(`alice asked carol: ${askers.carol}`);
  console.log(
    `bob sent carol ${sent} numbers: ${heard.length} came; late or twice: ${late.length}`,
  );
  console.log(`bob, at ${nameOf(url)} now, reaches ${delivered.sort().join(', ')}`);
  expect(twice === 0, 'bob is asked nothing twice');
  expect(asked.all.size >= askers.bob.answered, 'what is answered was asked');
  const codes = [...askers.bob.failed.keys()];
  expect(
    codes.every((one) => ['GONE', 'UNKNOWN_ID'].includes(one)),
    'what was asked of bob meanwhile is GONE or UNKNOWN_ID',
  );
  expect(askers.carol.failed.size === 0, 'who is at other brokers notices nothing');
  expect(late.length === 0, 'numbers come in order, none twice');
  expect(heard.at(-1) === sent, 'the last number comes');
  expect(delivered.length === 3, 'all are found in the end');

  await Promise.all([alice.close(), carol.close(), bob.close(), dave.close()]);
  for (const what of faults) console.log(`NOT: ${what}`);
  console.log(faults.length === 0 ? 'all that is promised held' : 'not all that is promised held');
  process.exit(faults.length === 0 ? 0 : 1);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
