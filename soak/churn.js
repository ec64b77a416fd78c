'use strict';

// Many ids in a cluster during an outage of NATS: `node soak/churn.js`. See README.md beside this file.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const { executable } = require('../testkit/nats');
const { play } = require('./churn/play');
const { capacity, judge, markdown } = require('./churn/report');
const { RESULTS, parse, publish, requireLinux, run } = require('./command');

const USAGE = `usage: node soak/churn.js [options]
  --ids N       number of ids (default 40000)
  --out FOLDER  where churn.md is written (default soak/results)
`;

/** The limit of open files, which each child process inherits. */
function openFiles() {
  const limits = fs.readFileSync('/proc/self/limits', 'utf8');
  return Number(/^Max open files\s+(\d+)/m.exec(limits)[1]);
}

async function main() {
  const options = parse(USAGE, { ids: 40_000, out: RESULTS });
  requireLinux();
  const files = openFiles();
  const brokers = Math.max(2, Math.ceil(options.ids / capacity(files)));
  const results = { alone: [], cluster: [] };
  // Two sizes show whether the cost grows linearly.
  for (const ids of [Math.round(options.ids / 2), options.ids]) {
    results.alone.push(await play({ ids, brokers, isClustered: false }));
    const played = await play({ ids, brokers });
    results.cluster.push(played);
    console.error(`${ids} ids: reached ${played.seconds.reached} s after NATS listens`);
  }
  const nats = execFileSync(executable('new'), ['--version'], { encoding: 'utf8' });
  const report = markdown(results, {
    files,
    nats: /[\d.]+/.exec(nats)[0],
    command: `node soak/churn.js --ids ${options.ids}`,
  });
  publish(options.out, { 'churn.md': report });
  if (judge(results).length > 0) process.exitCode = 1;
}

run(main);
