'use strict';

// The performance of the Node API for programs that send and receive in JavaScript.

const Process = require('../api/process');
const { choose, eachRound } = require('../api/rounds');
const report = require('../driver/report');

const GROUPS = ['scenario', 'layout'];
const LAYOUTS = ['one', 'two'];
const RATES = ['messages_per_second', 'cpu_us_per_message'];
const SCENARIOS = {
  oneway: { fields: RATES, ratios: RATES },
  asks: { fields: RATES, ratios: RATES },
  ping: { fields: ['p50_us', 'p99_us', 'p999_us', ...RATES], ratios: ['p50_us', 'p99_us'] },
};

/** Durations and rounds: about four minutes in total, or twenty seconds with --quick. */
function plan({ quick, settings: { rounds } }) {
  if (quick) return { rounds: 1, warm: 0.1, seconds: 0.2 };
  return { rounds, warm: 0.4, seconds: 0.7 };
}

/** Runs one scenario in fresh processes: broker and clients in one, or in two. */
async function sample(rival, layout, scenario, { warm, seconds }) {
  const processes =
    layout === 'one'
      ? [new Process('worker.js', rival, 'both')]
      : [new Process('worker.js', rival, 'clients'), new Process('worker.js', rival, 'broker')];
  const [clients, broker] = processes;
  const used = async () => {
    const parts = await Promise.all(processes.map((each) => each.ask('cpu')));
    return parts.reduce((sum, { microseconds }) => sum + microseconds, 0);
  };
  try {
    await clients.ask('start', await broker?.ask('start'));
    await clients.ask('run', { scenario, seconds: warm });
    const before = await used();
    const result = await clients.ask('run', { scenario, seconds });
    const cpu = (await used()) - before;
    return { layout, ...result, cpu_us_per_message: cpu / result.messages };
  } finally {
    for (const each of processes) each.kill();
  }
}

async function measure(rivals, run) {
  const how = plan(run);
  const rows = [];
  for (const [scenario, { fields, ratios }] of Object.entries(SCENARIOS)) {
    const samples = [];
    for (const layout of LAYOUTS) {
      const one = async (rival) => ({ scenario, ...(await sample(rival, layout, scenario, how)) });
      samples.push(
        ...(await eachRound(
          choose(rivals.filter(({ name }) => name !== 'ws8-corked' || run.names)),
          how.rounds,
          one,
        )),
      );
    }
    rows.push(...report.compare(report.summarize(samples, GROUPS, fields), GROUPS, ratios));
  }
  return rows;
}

const WHAT = { oneway: 'one way', asks: '64 requests in flight', ping: 'one request in flight' };
const WHERE = { one: 'one process', two: 'two processes' };

function table(rows) {
  const places = [
    ['what', (row) => WHAT[row.scenario]],
    ['where', (row) => WHERE[row.layout]],
    ['API', (row) => row.rival],
  ];
  const cpu = ['CPU us/message', (row) => report.withSpread(row.cpu_us_per_message)];
  const rates = [
    ['messages/s', (row) => report.withSpread(row.messages_per_second)],
    ['to ws8', (row) => report.times(row.messages_per_second)],
    cpu,
    ['to ws8', (row) => report.times(row.cpu_us_per_message)],
  ];
  const latencies = [
    ['p50 us', (row) => report.withSpread(row.p50_us)],
    ['to ws8', (row) => report.times(row.p50_us)],
    ['p99 us', (row) => report.withSpread(row.p99_us)],
    ['p99.9 us', (row) => report.withSpread(row.p999_us)],
    cpu,
  ];
  const pings = rows.filter(({ scenario }) => scenario === 'ping');
  const others = rows.filter((row) => !pings.includes(row));
  const tables = [
    report.table(others, [...places, ...rates]),
    report.table(pings, [...places, ...latencies]),
  ];
  return tables.join('\n\n');
}

module.exports = { name: 'api', title: 'Node API', measure, table };
