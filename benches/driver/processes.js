'use strict';

// The two kinds of process that a measurement needs: a broker and the load on it. Both are waited
// for with a deadline, and ended by their own pid when it passes or the driver ends: by SIGTERM, so that
// one with a child of its own can take it along.

const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const proc = require('../../testkit/proc');

const LOAD = path.join(__dirname, '../../target/release/wsmsgbroker-load');
const START_TIMEOUT = 20_000;
// Beyond what a load process was told to run: it gives up by itself after 10 s without progress.
const GRACE = 30_000;

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill();
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

/** Which processors the load and the broker get when pinned, or null where that cannot be. */
function separateCpus() {
  const last = os.cpus().length - 1;
  if (last < 1 || spawnSync('taskset', ['-V']).error) return null;
  return { broker: last === 1 ? '0' : `0-${last - 1}`, load: String(last) };
}

const PINNED = separateCpus();

/** `cpus` is 'pinned', to what is meant for its role, or 'shared'. */
function start(role, cpus, command, args) {
  const [file, list] =
    cpus === 'pinned' ? ['taskset', ['-c', PINNED[role], command, ...args]] : [command, args];
  const child = spawn(file, list, { stdio: ['pipe', 'pipe', 'pipe'] });
  running.add(child);
  child.once('close', () => running.delete(child));
  child.stdin.on('error', () => {}); // it may be gone already
  child.errors = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    if (child.errors.length < 4096) child.errors += text;
  });
  child.lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return child;
}

/** The next line a child prints, parsed; a child that ends or stays silent instead is an error. */
async function nextLine(child, what, timeout) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: silent for ${timeout} ms`)), timeout);
  });
  try {
    const { done, value } = await Promise.race([child.lines.next(), late]);
    if (!done) return JSON.parse(value);
    if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
    throw new Error(`${what}: ${child.errors.trim() || 'ended without a word'}`);
  } catch (error) {
    child.kill();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Waits for the end of a child whose standard input is closed by this. */
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
    // Collections are forced before memory is read, so that garbage is nobody's footprint.
    const flags = rival.runtime ? [] : ['--expose-gc'];
    const args = [...flags, script, ...(rival.args ?? [])];
    broker.child = start('broker', cpus, rival.runtime ?? process.execPath, args);
    // What its clients need, as options of the load, the process that does the work, and where other
    // brokers find it.
    const { pid = broker.child.pid, hub, ...address } = await broker.ask();
    return Object.assign(broker, { pid, hub, address });
  }

  /** All whose processor time counts. */
  get parts() {
    return [this];
  }

  /** Gives it an order, if any, and waits for what it says. */
  ask(order) {
    if (order) this.child.stdin.write(`${order}\n`);
    return nextLine(this.child, this.name, START_TIMEOUT);
  }

  /** User and system time of all its threads, in seconds; resolution 10 ms. */
  cpuSeconds() {
    return proc.processorTime(this.pid).own;
  }

  /** Keeps its JavaScript busy, and tells from when to when, in milliseconds of the wall clock. */
  spin(millis) {
    return this.ask(`spin ${millis}`);
  }

  /** Resident and proportional bytes after a full collection. */
  async memory() {
    await this.ask('gc');
    return proc.memory(this.pid);
  }

  /**
   * A broker that complained has not done its work, whatever the load saw of it, unless the measurement
   * has `provoked` the complaint.
   */
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

/** Runs the load to its end and returns what it printed. */
async function runLoad(mode, broker, options) {
  const what = `${mode} on ${broker.name}`;
  const child = startLoad(mode, broker, options);
  const result = await nextLine(child, what, options.seconds * 1000 + GRACE);
  await finish(child, what);
  return result;
}

/**
 * Starts a load that goes on until it is told to end, calls `during` once it is under way, and returns
 * what that returned and what the load said at its end, if anything.
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
