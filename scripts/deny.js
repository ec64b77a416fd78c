'use strict';

// `npm run deny`: cargo-deny holds the Rust dependencies against deny.toml: licences, duplicates, where
// they come from. With --advisories: are known vulnerabilities among them? That needs the RustSec database,
// which comes from a Git host.

const path = require('node:path');
const { root, run, tool } = require('./tool');

const VERSION = '0.20.2';
const checks = process.argv.includes('--advisories')
  ? ['advisories']
  : ['bans', 'licenses', 'sources'];

const binary = tool('cargo-deny', VERSION);
const config = ['--config', path.join(root, 'deny.toml')];
run(binary, ['--workspace', '--locked', ...config, 'check', '--hide-inclusion-graph', ...checks]);
