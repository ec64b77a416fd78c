'use strict';

// `npm run deny`: cargo-deny checks the licences, duplicates and sources of the Rust dependencies against
// deny.toml. With --advisories it checks for known vulnerabilities, which needs the RustSec database from a
// Git host.

const path = require('node:path');
const { root, run, tool } = require('./tool');

const VERSION = '0.20.2';
const checks = process.argv.includes('--advisories')
  ? ['advisories']
  : ['bans', 'licenses', 'sources'];

const binary = tool('cargo-deny', VERSION);
const config = ['--config', path.join(root, 'deny.toml')];
run(binary, ['--workspace', '--locked', ...config, 'check', '--hide-inclusion-graph', ...checks]);
