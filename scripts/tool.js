'use strict';

// Programs from the crate registry, built once into target/tools.

const { spawnSync } = require('node:child_process');
const path = require('node:path');

const root = path.join(__dirname, '..');
const tools = path.join(root, 'target', 'tools');

/** Runs a program. Throws if it fails. */
function run(command, args, options) {
  const settings = { cwd: root, stdio: 'inherit', ...options };
  const { status, error, stdout } = spawnSync(command, args, settings);
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
  return stdout;
}

/** The path of the program with the name of its crate. */
function tool(name, version) {
  const binary = path.join(tools, 'bin', name);
  const installed = spawnSync(binary, ['--version'], { encoding: 'utf8' });
  if (installed.stdout?.trim() !== `${name} ${version}`) {
    // Unoptimized: it runs for a second, and builds in one minute instead of many.
    const crate = [name, '--version', version, '--locked', '--debug', '--force'];
    const target = path.join(tools, 'build');
    run('cargo', ['install', ...crate, '--root', tools, '--target-dir', target], {
      env: { ...process.env, CARGO_PROFILE_DEV_DEBUG: 'none' },
    });
  }
  return binary;
}

module.exports = { root, run, tool };
