'use strict';

// The command line of the programs in this folder: parses options and publishes reports.

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');

/**
 * The options of the command line by name. An option with a numeric default must be a number above zero.
 * `--help` prints the usage and ends the process.
 */
function parse(usage, defaults) {
  const texts = Object.entries(defaults).map(([name, value]) => [
    name,
    { type: 'string', default: String(value) },
  ]);
  const { values } = parseArgs({
    options: { ...Object.fromEntries(texts), help: { type: 'boolean', default: false } },
  });
  const { help, ...options } = values;
  if (help) {
    process.stdout.write(usage);
    process.exit();
  }
  for (const [name, value] of Object.entries(defaults)) {
    if (typeof value !== 'number') continue;
    options[name] = Number(options[name]);
    if (!(options[name] > 0)) throw new Error(`--${name} expects a number above zero`);
  }
  return options;
}

/** The default of `--out`. */
const RESULTS = path.join(__dirname, 'results');

/** Writes files (name to text) to a folder and prints the first one, which is the report. */
function publish(folder, files) {
  fs.mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) {
    fs.writeFileSync(path.join(folder, name), text);
  }
  process.stdout.write(Object.values(files)[0]);
}

/** Throws where there is no `/proc`. */
function requireLinux() {
  if (process.platform !== 'linux') throw new Error('it reads /proc: Linux only');
}

/** Runs the program; the exit status is 1 when it rejects. */
function run(main) {
  main().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = { RESULTS, parse, publish, requireLinux, run };
