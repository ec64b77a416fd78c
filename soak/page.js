'use strict';

// What every page of results has: where it comes from, and tables.

const { execFileSync } = require('node:child_process');
const os = require('node:os');

const MIB = 1024 ** 2;
const integer = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const mib = (bytes) => (bytes / MIB).toFixed(1);

function table(head, rows) {
  const row = (cells) => `| ${cells.join(' | ')} |`;
  return [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n');
}

function commit() {
  const git = (...args) =>
    execFileSync('git', args, { cwd: __dirname, encoding: 'utf8', stdio: 'pipe' }).trim();
  try {
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain') ? ', changed' : '');
  } catch {
    return 'unknown';
  }
}

/** The machine, the versions, the date and the command, as a list; `more` lines follow. */
function origin(command, ...more) {
  const memory = Math.round(os.totalmem() / 2 ** 30);
  const system = `${os.type()} ${os.release().split('-')[0]} ${os.arch()}`;
  const lines = [
    `machine: ${os.cpus()[0].model.trim()}, ${os.cpus().length} cores, ${memory} GiB, ${system}`,
    `versions: node ${process.versions.node}, wsmsgbroker ${require('../package.json').version} (${commit()})`,
    `${new Date().toISOString().slice(0, 10)}, \`${command}\``,
    ...more,
  ];
  return lines.map((line) => `- ${line}`).join('\n');
}

module.exports = { MIB, integer, mib, table, origin };
