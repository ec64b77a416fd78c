'use strict';

// The two kinds of process of a measurement: a broker, and the load on it. Both have timeouts, and are ended
// by their pid after a timeout or when the driver ends. SIGTERM allows a process with a child of its own to
// end that, too.

const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const proc = require('../../testkit/proc');

const LOAD = path.join(__dirname, '../../target/release/wsmsgbroker-load');
const START_TIMEOUT = 20_000;
// Time in addition to the duration of a load process, which ends by itself after 10 s without progress.
const GRACE = 30_000;

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill();
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

/** The processors of the load and of the broker when pinned, or null if that is not possible. */
function separateCpus() {
  const last = os.cpus().length - 1;
  if (last < 1 || spawnSync('taskset', ['-V']).error) return null;
  return { broker: last === 1 ? '0' : `0-${last - 1}`, load: String(last) };
}

const PINNED = separateCpus();

/** `cpus` is 'pinned', to the processors of its role, or 'shared'. */
function start(role, cpus, command, args) {
  const [file, list] =
    cpus === 'pinned' ? ['taskset', ['-c', PINNED[role], command, ...args]] : [command, args];
  const child = spawn(file, list, { stdio: ['pipe', 'pipe', 'pipe'] });
  running.add(child);
  child.once('close', () => running.delete(child));
  child.stdin.on('error', () => {}); // the process may have ended
  child.errors = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    if (child.errors.length < 4096) child.errors += text;
  });
  child.lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return child;
}

/** The next line that a child prints, parsed. It is an error if the child ends or prints nothing in time. */
async function nextLine(child, what, timeout) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: silent for ${timeout} ms`)), timeout);
  });
  try {
    const { done, value } = await Promise.race([child.lines.next(), late]);
    if (!done) return JSON.parse(value);
    if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
    throw new Error(`${what}: ${child.errors.trim() || 'ended without an error message'}`);
  } catch (error) {
    child.kill();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Closes the standard input of a child and waits for its end. */
async function finish(child, what) {
  const timer = setTimeout(() => child.kill(), GRACE);
  const closed = once(child, 'close');
  child.stdin.end();
  if (child.exitCode === null && child.signalCode === null) await closed;
  clearTimeout(timer);
  if (child.exitCode !== 0) {
    throw new Error(`${what}: ${child.errors.trim() || child.signalCode || child.exitCode}`);
  }
}

class Broker {
  static async start(rival, cpus) {
    const script = path.join(__dirname, '../brokers', rival.script);
    const broker = new Broker();
    broker.name = rival.name;
    broker.cpus = cpus;
    // Garbage is collected before memory is read, so that it is not counted.
    const flags = rival.runtime ? [] : ['--expose-gc'];
    const args = [...flags, script, ...(rival.args ?? [])];
    broker.child = start('broker', cpus, rival.runtime ?? process.execPath, args);
    // Options of the load for this broker, the process that does the work, and the address for other brokers.
    const { pid = broker.child.pid, hub, ...address } = await broker.ask();
    return Object.assign(broker, { pid, hub, address });
  }

  /** All processes whose processor time counts. */
  get parts() {
    return [this];
  }

  /** Sends a command, if given, and waits for a line. */
  ask(order) {
    if (order) this.child.stdin.write(`${order}\n`);
    return nextLine(this.child, this.name, START_TIMEOUT);
  }

  /** User and system time of all its threads in seconds, with a resolution of 10 ms. */
  cpuSeconds() {
    return proc.processorTime(this.pid).own;
  }

  /** Keeps its JavaScript busy. Resolves with the start and end in milliseconds of the wall clock. */
  spin(millis) {
    return this.ask(`spin ${millis}`);
  }

  /** Resident and proportional bytes after a full garbage collection. */
  async memory() {
    await this.ask('gc');
    return proc.memory(this.pid);
  }

  /** Ends the broker. Its error messages fail the measurement, unless the measurement has `provoked` them. */
  async stop() {
    await finish(this.child, this.name);
    const complaints = this.child.errors.match(/^(?:warn|error): .*$/gm) ?? [];
    const complaint = complaints.find((line) => !this.provoked?.test(line));
    if (complaint) throw new Error(`${this.name}: ${complaint}`);
  }

  kill() {
    this.child.kill();
  }
}

function loadArguments(mode, { address }, options) {
  const pairs = Object.entries({ ...address, ...options });
  return [mode, ...pairs.flatMap(([name, value]) => [`--${name}`, String(value)])];
}

function startLoad(mode, broker, options) {
  return start('load', broker.cpus, LOAD, loadArguments(mode, broker, options));
}

/** Runs the load to its end. Returns its output. */
async function runLoad(mode, broker, options) {
  const what = `${mode} on ${broker.name}`;
  const child = startLoad(mode, broker, options);
  const result = await nextLine(child, what, options.seconds * 1000 + GRACE);
  await finish(child, what);
  return result;
}

/**
 * Starts a load that runs until it is ended, and calls `during` meanwhile. Returns the result of `during` and
 * the final output of the load, if any.
 */
async function hold(mode, broker, options, during) {
  const what = `${mode} on ${broker.name}`;
  const child = startLoad(mode, broker, options);
  try {
    await nextLine(child, what, START_TIMEOUT + GRACE);
    const result = await during(child.pid);
    const last = child.lines.next();
    await finish(child, what);
    const { value } = await last;
    return [result, value && JSON.parse(value)];
  } finally {
    child.kill();
  }
}

module.exports = { Broker, PINNED, hold, runLoad };
