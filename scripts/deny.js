'use strict';

// `npm run deny`: cargo-deny holds the Rust dependencies against deny.toml: licences, duplicates, where
// they come from. With --advisories: are known vulnerabilities among them? That needs the RustSec database,
// which comes from a Git host.

const path = require('node:path');
const { root, run, tool } = require('./tool');

const VERSION = '0.20.2';
/** Each has a lock file of its own. */
const WORKSPACES = ['', 'benches/ids', 'benches/load', 'benches/micro'];

const checks = process.argv.includes('--advisories')
  ? ['advisories']
  : ['bans', 'licenses', 'sources'];

const binary = tool('cargo-deny', VERSION);
for (const workspace of WORKSPACES) {
  const manifest = path.join(root, workspace, 'Cargo.toml');
  const config = ['--config', path.join(root, 'deny.toml')];
  // One file for all of them: a licence that only some need is in order.
  const allowed = workspace === '' ? [] : ['--allow', 'license-not-encountered'];
  const check = ['check', '--hide-inclusion-graph', ...allowed, ...checks];
  run(binary, ['--manifest-path', manifest, '--locked', ...config, ...check]);
}
