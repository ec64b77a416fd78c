'use strict';

// Coverage reports, as HTML in target/coverage and as a table: `npm run coverage:rust` and `npm run coverage:js`.
// Rust needs two tools: `rustup component add llvm-tools` and `cargo install cargo-llvm-cov --locked`.

const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { root, run } = require('./tool');

const reports = path.join(root, 'target', 'coverage');

const languages = {
  rust() {
    if (spawnSync('cargo', ['llvm-cov', '--version']).status !== 0) {
      console.error('cargo-llvm-cov is missing: `cargo install cargo-llvm-cov --locked`');
      process.exit(1);
    }
    run('cargo', ['llvm-cov', '--no-report', '--features', 'nats']);
    run('cargo', ['llvm-cov', 'report', '--html', '--output-dir', path.join(reports, 'rust')]);
    run('cargo', ['llvm-cov', 'report', '--summary-only']);
  },
  js(files) {
    const c8 = ['c8', '--all', '--include', 'lib/**', '--include', 'bin/**'];
    const output = ['--reporter', 'html', '--reporter', 'text', '-o', path.join(reports, 'js')];
    const tests = files.length > 0 ? files : ['__test__/*.test.js'];
    run('npx', [...c8, ...output, 'ava', ...tests]);
  },
};

const [language, ...files] = process.argv.slice(2);
if (!Object.hasOwn(languages, language)) {
  console.error('usage: node scripts/coverage.js rust | js [FILE ...]');
  process.exit(2);
}
languages[language](files);
