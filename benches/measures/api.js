'use strict';

// The Node API: what programs get of it that send and receive in JavaScript.

const Process = require('../api/process');
const { choose, eachRound } = require('../api/rounds');
const { compare, summarize } = require('../driver/report');
const { markdown, times, withSpread } = require('../api/cells');

const LAYOUTS = ['one', 'two'];
const RATES = ['messages_per_second', 'cpu_us_per_message'];
const SCENARIOS = {
  oneway: { fields: RATES, ratios: RATES },
  asks: { fields: RATES, ratios: RATES },
  ping: { fields: ['p50_us', 'p99_us', 'p999_us', ...RATES], ratios: ['p50_us', 'p99_us'] },
};

/** How long, and how often: so that all of it takes about four minutes, or, quick, twenty seconds. */
function plan({ quick, rounds }) {
  if (quick) return { rounds: 1, warm: 0.1, seconds: 0.2 };
  return { rounds, warm: 0.3, seconds: 0.7 };
}

/** One scenario in fresh processes: broker and clients in one, or apart. */
async function sample(rival, layout, scenario, { warm, seconds }) {
  const processes =
    layout === 'one'
      ? [new Process('worker.js', rival, 'both')]
      : [new Process('worker.js', rival, 'clients'), new Process('worker.js', rival, 'broker')];
  const [clients, broker] = processes;
  const used = async () => {
    const each = await Promise.all(processes.map((process) => process.ask('cpu')));
    return each.reduce((sum, { microseconds }) => sum + microseconds, 0);
  };
  try {
    await clients.ask('start', await broker?.ask('start'));
    await clients.ask('run', { scenario, seconds: warm });
    const before = await used();
    const result = await clients.ask('run', { scenario, seconds });
    const cpu = (await used()) - before;
    return { layout, ...result, cpu_us_per_message: cpu / result.messages };
  } finally {
    for (const process of processes) process.kill();
  }
}

async function measure(rivals, { settings }) {
  const how = plan(settings);
  const rows = [];
  for (const [scenario, { fields, ratios }] of Object.entries(SCENARIOS)) {
    const samples = [];
    for (const layout of LAYOUTS) {
      const one = (rival) => sample(rival, layout, scenario, how);
      samples.push(...(await eachRound(choose(rivals), how.rounds, one)));
    }
    const summed = compare(summarize(samples, 'layout', fields), 'layout', ratios);
    rows.push(...summed.map((row) => ({ scenario, ...row })));
  }
  return rows;
}

function table(rows) {
  const places = { one: 'one process', two: 'two processes' };
  const of = (...scenarios) => rows.filter(({ scenario }) => scenarios.includes(scenario));
  const what = { oneway: 'one way', asks: '64 requests under way' };
  const rates = of('oneway', 'asks').map((row) => [
    what[row.scenario],
    places[row.layout],
    row.rival,
    withSpread(row.messages_per_second),
    times(row.messages_per_second),
    withSpread(row.cpu_us_per_message),
    times(row.cpu_us_per_message),
  ]);
  const pings = of('ping').map((row) => [
    places[row.layout],
    row.rival,
    withSpread(row.p50_us),
    times(row.p50_us),
    withSpread(row.p99_us),
    withSpread(row.p999_us),
    withSpread(row.cpu_us_per_message),
  ]);
  return [
    markdown(['what', 'where', 'rival', 'messages/s', 'to ws8', 'CPU us/message', 'to ws8'], rates),
    'One request under way:',
    markdown(['where', 'rival', 'p50 us', 'to ws8', 'p99 us', 'p99.9 us', 'CPU us/request'], pings),
  ].join('\n\n');
}

module.exports = { name: 'api', title: 'Node API', measure, table };
