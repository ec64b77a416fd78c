'use strict';

// The effect of a receiver that does not read on others: `node benches/slow.js`. See README.md.
//
// The broker, the flood with its receiver, and a healthy pair run in processes of their own. The round trips
// of the pair are measured without the flood and beside it.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');

const MARK = 16 * 1024 * 1024;
/** Allowance for the allocator and for memory of the healthy pair. */
const SLACK = 32 * 1024 * 1024;

const SCENARIOS = [
  { policy: 'pushback', reader: 'nothing' },
  { policy: 'close', reader: 'nothing' },
  { policy: 'drop', reader: 'nothing' },
  { policy: 'pushback', reader: '100000' },
  { policy: 'pushback', reader: '20000000', burst: 500 },
];

class Child {
  #process;

  constructor(role, ...args) {
    this.#process = fork(path.join(__dirname, 'slow', `${role}.js`), args);
    this.started = once(this.#process, 'message').then(([message]) => message);
  }

  async ask(question) {
    const answer = once(this.#process, 'message');
    this.#process.send(question);
    return (await answer)[0];
  }

  end() {
    this.#process.kill('SIGKILL');
  }
}

async function run({ policy, reader, burst }, seconds) {
  const broker = new Child('broker', policy);
  const port = String(await broker.started);
  const pair = new Child('pair', port);
  await pair.started;
  try {
    await pair.ask(1000);
    const quiet = await pair.ask(seconds * 1000);
    const { rss: before } = await broker.ask('look');
    const flood = new Child('flood', port, reader, String(burst ?? 0));
    await flood.started;
    let peak = before;
    let done = false;
    const watch = (async () => {
      while (!done) {
        peak = Math.max(peak, (await broker.ask('look')).rss);
        await sleep(100);
      }
    })();
    const flooded = flood.ask(seconds * 1000);
    const beside = await pair.ask(seconds * 1000);
    const told = await flooded;
    done = true;
    await watch;
    const { stats, slow } = await broker.ask('look');
    flood.end();
    return { policy, reader, burst, quiet, beside, growth: peak - before, stats, slow, ...told };
  } finally {
    pair.end();
    broker.end();
  }
}

const mib = (bytes) => (bytes / 1024 / 1024).toFixed(1);

function row(result) {
  const { policy, reader, burst, quiet, beside, growth, stats, slow, sent, held, received } =
    result;
  const who = reader === 'nothing' ? 'nothing' : `${Number(reader) / 1e6} MB/s`;
  return [
    policy + (burst ? `, ${burst} MB in a burst` : ''),
    who,
    `${Math.round(quiet.p99)} / ${Math.round(beside.p99)}`,
    (beside.p99 / quiet.p99).toFixed(2),
    mib(growth),
    sent,
    received,
    Math.round(held),
    `${stats.slow} / ${stats.dropped} / ${slow.join(' ') || '-'}`,
  ];
}

async function main() {
  const { values } = parseArgs({
    options: { seconds: { type: 'string', default: '10' }, only: { type: 'string' } },
  });
  const head = [
    'policy',
    'the receiver reads',
    'p99 of the pair, us, without / beside',
    'ratio',
    'growth, MiB',
    'sent',
    'received',
    'longest delay, ms',
    'slow / dropped / events',
  ];
  console.log(`| ${head.join(' | ')} |\n|${' --- |'.repeat(head.length)}`);
  for (const [number, scenario] of SCENARIOS.entries()) {
    if (values.only !== undefined && Number(values.only) !== number) continue;
    const result = await run(scenario, Number(values.seconds));
    console.log(`| ${row(result).join(' | ')} |`);
    if (result.growth > MARK + SLACK) {
      console.log(`more than the limit of ${mib(MARK + SLACK)} MiB`);
      process.exitCode = 1;
    }
    if (scenario.burst && result.received !== result.sent) {
      console.log('the burst is not complete');
      process.exitCode = 1;
    }
  }
}

main();
