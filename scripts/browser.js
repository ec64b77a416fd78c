'use strict';

// Makes browser/ of lib/browser/, in the three forms in which programs load it, and prints their sizes:
//   wsmsgbroker.mjs   an ES module: the class is its default export
//   wsmsgbroker.cjs   CommonJS: the class is what `require` returns
//   wsmsgbroker.js    for a plain <script>: the class is the global WSMsgBroker
// It is an error if one of them is larger than a page should have to load.

const fs = require('node:fs');
const path = require('node:path');
const zlib = require('node:zlib');
const esbuild = require('esbuild');
const { name, version, license } = require('../package.json');

/** Bytes of each file, minified and gzipped. */
const LIMIT = 6 * 1024;

const root = path.join(__dirname, '..');
const folder = path.join(root, 'browser');

/** Beside the class, the name that Node.js finds in the package by itself. */
const MODULE = `const WSMsgBroker = require('./index.js');
export default WSMsgBroker;
export const { Server } = WSMsgBroker;`;
const COMMONJS = "module.exports = require('./index.js');";

const FORMS = {
  'wsmsgbroker.mjs': { format: 'esm', contents: MODULE },
  'wsmsgbroker.cjs': { format: 'cjs', contents: COMMONJS },
  'wsmsgbroker.js': { format: 'iife', globalName: 'WSMsgBroker', contents: COMMONJS },
};

/** What TypeScript must know of a module: its kind, which is in the name, and where the class is. */
const TYPES = {
  'wsmsgbroker.d.mts': "export { default, Server } from '../index.js';\n",
  'wsmsgbroker.d.cts': "import WSMsgBroker = require('../index.js');\n\nexport = WSMsgBroker;\n",
};

function build(file, { contents, ...form }) {
  esbuild.buildSync({
    ...form,
    stdin: { contents, resolveDir: path.join(root, 'lib', 'browser'), sourcefile: file },
    outfile: path.join(folder, file),
    // A module of Node.js is an error.
    platform: 'browser',
    bundle: true,
    minify: true,
    target: 'es2022',
    banner: { js: `/*! ${name} ${version}, ${license} license */` },
    logLevel: 'warning',
  });
}

/** Bytes of a file: as it is, and gzipped. */
function measure(file) {
  const bytes = fs.readFileSync(path.join(folder, file));
  return { file, size: bytes.length, gzipped: zlib.gzipSync(bytes, { level: 9 }).length };
}

function main() {
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder);
  for (const [file, form] of Object.entries(FORMS)) build(file, form);
  for (const [file, text] of Object.entries(TYPES)) {
    fs.writeFileSync(path.join(folder, file), text);
  }
  for (const { file, size, gzipped } of Object.keys(FORMS).map(measure)) {
    const show = (bytes) => bytes.toLocaleString('en-US');
    const verdict = `${show(gzipped)} gzipped, of ${show(LIMIT)} at most`;
    console.log(`browser/${file}: ${show(size)} bytes, ${verdict}`);
    if (gzipped > LIMIT) process.exitCode = 1;
  }
  if (process.exitCode) console.error('the browser client is too large');
}

main();
