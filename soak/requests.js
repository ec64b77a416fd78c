'use strict';

// Leaks of many requests: `node soak/requests.js`. See README.md beside this file.

const { integer, mib, origin, table } = require('../testkit/report');
const { RESULTS, parse, publish, requireLinux, run } = require('./command');
const { growth, judge, measure } = require('./requests/measure');

const USAGE = `usage: node soak/requests.js [options]
  --count N     requests per kind of client (default 1000000)
  --kinds LIST  of native, browser and page (default: all)
  --out FOLDER  where requests.md is written (default soak/results)
`;

const KINDS = {
  native: "Node.js, the addon's client",
  browser: "Node.js, the browser's client on `ws`",
  page: 'a page of Chromium',
};
const PARTS = 20;

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
      ['requests', ({ count }) => integer(count)],
      ...['answered', 'TIMEOUT', 'ABORT_ERR'].map((end) => [end, ({ ends }) => integer(ends[end])]),
      ['seconds', ({ seconds }) => seconds.toFixed(0)],
    ],
    [
      ['clients: pending requests', held(({ clients }) => clients.requests)],
      ['clients: unanswered incoming requests', held(({ clients }) => clients.cancels)],
      ['clients: heap, MiB', bytes(({ clients }) => clients.heap)],
      ['clients: resident, MiB', bytes(({ clients }) => clients.resident)],
      ['broker: `pending`', held(({ server }) => server.pending)],
      ['broker: `memory`, bytes', held(({ server }) => integer(server.memory))],
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
    '# Leaks of requests that are answered, time out or are aborted',
    'One client of each kind sends requests to another one, through a broker in a process of its own. What do the clients\n' +
      'and the broker still hold afterwards? Method and repetition: [README.md](../README.md).',
    origin(command),
    ends,
    'Values before and after. In parentheses: growth of memory in bytes per request, which is the slope of a line through\n' +
      `${PARTS + 1} samples, each after a full garbage collection, and its standard error.`,
    left,
    wrong.length > 0 ? wrong.join('\n') : 'No leaks.',
  ].join('\n\n')}\n`;
}

const rate = ({ slope, error }) => `${slope.toFixed(2)} ± ${error.toFixed(2)}`;

async function main() {
  const defaults = { count: 1_000_000, kinds: Object.keys(KINDS).join(), out: RESULTS };
  const options = parse(USAGE, defaults);
  const kinds = options.kinds.split(',');
  if (!kinds.every((kind) => KINDS[kind])) throw new Error('--kinds: native, browser, page');
  requireLinux();
  const results = [];
  for (const kind of kinds) {
    results.push(await measure(kind, { count: options.count, parts: PARTS }));
    console.error(
      `${kind}: ${results.at(-1).seconds.toFixed(0)} s, ${judge(results.at(-1)).length} violations`,
    );
  }
  const command = `node soak/requests.js --count ${options.count} --kinds ${options.kinds}`;
  const report = markdown(results, command);
  publish(options.out, { 'requests.md': report });
  if (results.some((result) => judge(result).length > 0)) process.exitCode = 1;
}

run(main);
