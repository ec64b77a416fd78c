'use strict';

// Programs from the crate registry, each built once, into target/tools.

const { spawnSync } = require('node:child_process');
const path = require('node:path');

const root = path.join(__dirname, '..');
const tools = path.join(root, 'target', 'tools');

/** Runs a program to its end, which must be a good one. */
function run(command, args, options) {
  const settings = { cwd: root, stdio: 'inherit', ...options };
  const { status, error, stdout } = spawnSync(command, args, settings);
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
  return stdout;
}

/** The path of the program that has its crate's name. */
function tool(name, version) {
  const binary = path.join(tools, 'bin', name);
  const installed = spawnSync(binary, ['--version'], { encoding: 'utf8' });
  if (installed.stdout?.trim() !== `${name} ${version}`) {
    // Unoptimized: it runs for a second, and is built in one minute instead of many.
    const crate = [name, '--version', version, '--locked', '--debug', '--force'];
    run('cargo', ['install', ...crate, '--root', tools, '--target-dir', path.join(tools, 'build')]);
  }
  return binary;
}

module.exports = { root, run, tool };
