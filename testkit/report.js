'use strict';

// Parts of reports in Markdown: numbers, tables, and the circumstances of a measurement.

const { execFileSync } = require('node:child_process');
const os = require('node:os');

const MIB = 1024 ** 2;
const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const integer = (value) => whole.format(value);
const mib = (bytes) => (bytes / MIB).toFixed(1);

/** A table: the cells of its head, and of each row. */
function table(head, rows) {
  const row = (cells) => `| ${cells.join(' | ')} |`;
  return [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n');
}

const list = (lines) => lines.map((line) => `- ${line}`).join('\n');

/** This machine. */
function machine() {
  return {
    cpu: os.cpus()[0].model.trim(),
    cores: os.cpus().length,
    memory_gib: Math.round(os.totalmem() / 2 ** 30),
    system: `${os.type()} ${os.release().split('-')[0]} ${os.arch()}`,
  };
}

/** A machine in one line. */
const describe = ({ cpu, cores, memory_gib, system }) =>
  `machine: ${cpu}, ${cores} cores, ${memory_gib} GiB, ${system}`;

/** Today, as year, month and day. */
const today = () => new Date().toISOString().slice(0, 10);

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
  const { version } = require('../package.json');
  return list([
    describe(machine()),
    `versions: node ${process.versions.node}, wsmsgbroker ${version} (${commit()})`,
    `${today()}, \`${command}\``,
    ...more,
  ]);
}

module.exports = { MIB, describe, integer, list, machine, mib, origin, table, today };
