'use strict';

// Sessions over broken connections: `node soak/sessions.js`. See README.md beside this file.

const { integer, origin, table } = require('../testkit/report');
const { RESULTS, parse, publish, run } = require('./command');
const play = require('./sessions/play');

const USAGE = `usage: node soak/sessions.js [options]
  --breaks N    connections to break (default 1000)
  --clients N   clients at the same time (default 10)
  --out FOLDER  where sessions.md is written (default soak/results)
`;

/** The value below which this share of sorted values lies. */
const quantile = (values, share) => values[Math.floor((values.length - 1) * share)];
const milliseconds = (value) => `${value.toFixed(2)} ms`;

function markdown({ breaks, messages, requests, violations, times, trips, ended }, command) {
  const sorted = (values) => [...values].sort((a, b) => a - b);
  const [resumed, trip] = [sorted(times), sorted(trips)];
  const rows = [
    ['broken connections', integer(breaks)],
    ['resumed sessions', integer(times.length)],
    ['ended sessions', integer(ended)],
    ['messages, both directions', integer(messages)],
    ['requests in flight over a broken connection, both directions', integer(requests)],
    ['violations', integer(violations.length)],
  ];
  const time = (name, values) => [
    name,
    ...[0.5, 0.99, 1].map((q) => milliseconds(quantile(values, q))),
  ];
  return `${[
    '# Sessions over broken connections',
    'Connections are broken in the middle of traffic. Does each message arrive once and in order, and is each request in\n' +
      'flight handled and answered once? Method and repetition: [README.md](../README.md).',
    origin(command),
    table(['', ''], rows),
    table(
      ['', 'p50', 'p99', 'longest'],
      [
        time('from the open WebSocket to the resumed session', resumed),
        time('a round trip of a message to the client itself', trip),
      ],
    ),
    ...violations.slice(0, 20).map((violation) => `- **${violation}**`),
  ].join('\n\n')}\n`;
}

run(async () => {
  const options = parse(USAGE, { breaks: 1000, clients: 10, out: RESULTS });
  const result = await play(options);
  const command = `node soak/sessions.js --breaks ${options.breaks} --clients ${options.clients}`;
  publish(options.out, { 'sessions.md': markdown(result, command) });
  process.exit(result.violations.length > 0 || result.ended > 0 ? 1 : 0);
});
