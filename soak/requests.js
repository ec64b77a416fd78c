'use strict';

// Many requests, and what is left of them: `node soak/requests.js`. See README.md beside this file.

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { integer, mib, origin, table } = require('./page');
const { growth, judge, measure } = require('./requests/measure');

const USAGE = `usage: node soak/requests.js [options]
  --count N     requests of each kind of client (default 1000000)
  --kinds LIST  of native, browser and page (default: all)
  --out FOLDER  where requests.md is written (default soak/results)
`;

const KINDS = {
  native: "Node.js, the addon's client",
  browser: "Node.js, the browser's client on `ws`",
  page: 'a page of Chromium',
};
const PARTS = 20;

function parse() {
  const { values } = parseArgs({
    options: {
      count: { type: 'string', default: '1000000' },
      kinds: { type: 'string', default: Object.keys(KINDS).join() },
      out: { type: 'string', default: path.join(__dirname, 'results') },
      help: { type: 'boolean', default: false },
    },
  });
  const kinds = values.kinds.split(',');
  const count = Number(values.count);
  if (!(count > 0)) throw new Error('--count expects a number');
  if (!kinds.every((kind) => KINDS[kind])) throw new Error('--kinds: native, browser, page');
  return { ...values, kinds, count };
}

function markdown(results, command) {
  const row = (cells) => results.map((result) => cells(result));
  const held =
    (of) =>
    ({ samples }) =>
      `${of(samples[0])} → ${of(samples.at(-1))}`;
  const bytes = (of) => (result) =>
    `${held((sample) => mib(of(sample)))(result)} (${rate(growth(result.samples, of))})`;
  const sections = [
    [
      ['asked', ({ count }) => integer.format(count)],
      ...['answered', 'TIMEOUT', 'ABORT_ERR'].map((end) => [
        end,
        ({ ends }) => integer.format(ends[end]),
      ]),
      ['seconds', ({ seconds }) => seconds.toFixed(0)],
    ],
    [
      ['clients: requests they await', held(({ clients }) => clients.requests)],
      ['clients: requests they may answer', held(({ clients }) => clients.cancels)],
      ['clients: heap, MiB', bytes(({ clients }) => clients.heap)],
      ['clients: resident, MiB', bytes(({ clients }) => clients.resident)],
      ['broker: `pending`', held(({ server }) => server.pending)],
      ['broker: `memory`, bytes', held(({ server }) => integer.format(server.memory))],
      ['broker: heap, MiB', bytes(({ server }) => server.heap)],
      ['broker: resident, MiB', bytes(({ server }) => server.resident)],
    ],
  ];
  const [ends, left] = sections.map((rows) =>
    table(
      ['', ...row(({ kind }) => KINDS[kind])],
      rows.map(([name, cell]) => [name, ...row(cell)]),
    ),
  );
  const wrong = results.flatMap((result) =>
    judge(result).map((what) => `- **${KINDS[result.kind]}: ${what}**`),
  );
  return `${[
    '# Requests that are answered, time out, or are aborted',
    'Of each kind of client, one asks and one answers, over a broker in a process of its own: what do they, and\n' +
      'what does the broker, still hold afterwards? How it is done, and how to repeat it: [README.md](../README.md).',
    origin(command),
    ends,
    'What is held before and after, and in parentheses the slope of memory in bytes a request: that of a line through\n' +
      `${PARTS + 1} samples, each after a collection of all garbage, and its standard error.`,
    left,
    wrong.length > 0 ? wrong.join('\n') : 'All as it should be.',
  ].join('\n\n')}\n`;
}

const rate = ({ slope, error }) => `${slope.toFixed(2)} ± ${error.toFixed(2)}`;

async function main() {
  const options = parse();
  if (options.help) return process.stdout.write(USAGE);
  if (process.platform !== 'linux') throw new Error('it reads /proc: Linux only');
  const results = [];
  for (const kind of options.kinds) {
    results.push(await measure(kind, { count: options.count, parts: PARTS }));
    console.error(
      `${kind}: ${results.at(-1).seconds.toFixed(0)} s, ${judge(results.at(-1)).length} faults`,
    );
  }
  const command = `node soak/requests.js --count ${options.count} --kinds ${options.kinds}`;
  const report = markdown(results, command);
  fs.mkdirSync(options.out, { recursive: true });
  fs.writeFileSync(path.join(options.out, 'requests.md'), report);
  process.stdout.write(report);
  if (results.some((result) => judge(result).length > 0)) process.exitCode = 1;
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
