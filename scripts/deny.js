'use strict';

// `npm run deny`: cargo-deny holds the Rust dependencies against deny.toml: licences, duplicates, where
// they come from. With --advisories: are known vulnerabilities among them? That needs the RustSec database,
// which comes from a Git host. cargo-deny is built once, into target/tools.

const { spawnSync } = require('node:child_process');
const path = require('node:path');

const VERSION = '0.20.2';
/** Each has a lock file of its own. */
const WORKSPACES = ['', 'benches/load'];

const root = path.join(__dirname, '..');
const tools = path.join(root, 'target', 'tools');
const binary = path.join(tools, 'bin', 'cargo-deny');
const checks = process.argv.includes('--advisories')
  ? ['advisories']
  : ['bans', 'licenses', 'sources'];

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

const installed = spawnSync(binary, ['--version'], { encoding: 'utf8' });
if (installed.stdout?.trim() !== `cargo-deny ${VERSION}`) {
  // Unoptimized: it runs for a second, and is built in one minute instead of many.
  const crate = ['cargo-deny', '--version', VERSION, '--locked', '--debug', '--force'];
  run('cargo', ['install', ...crate, '--root', tools, '--target-dir', path.join(tools, 'build')]);
}
for (const workspace of WORKSPACES) {
  const manifest = path.join(root, workspace, 'Cargo.toml');
  const config = ['--config', path.join(root, 'deny.toml')];
  // One file for all of them: a licence that only some need is in order.
  const allowed = workspace === '' ? [] : ['--allow', 'license-not-encountered'];
  const check = ['check', '--hide-inclusion-graph', ...allowed, ...checks];
  run(binary, ['--manifest-path', manifest, '--locked', ...config, ...check]);
}
