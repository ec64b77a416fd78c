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
const terser = require('terser');
const { name, version, license } = require('../package.json');

/** Bytes of each file, minified and gzipped. */
const LIMIT = 6.5 * 1024;

const root = path.join(__dirname, '..');
const folder = path.join(root, 'browser');

/**
 * Reads the CommonJS of lib/ as ES modules: these are joined in one scope, where CommonJS keeps a function
 * around each file, a tenth more for a page to load. Only what lib/ writes is understood.
 */
const asModules = {
  name: 'as-modules',
  setup({ onLoad }) {
    onLoad({ filter: /\/lib\/.*\.js$/ }, ({ path: file }) => ({ contents: asModule(file) }));
  },
};

/** What `module.exports` is: an object of names, or one thing. */
const NAMES = /^module\.exports = (\{[^}]+\});$/m;

function asModule(file) {
  const read = (from) => fs.readFileSync(from, 'utf8');
  const importOne = (_, name, from) => {
    const target = `${path.resolve(path.dirname(file), from)}.js`;
    return `import ${NAMES.test(read(target)) ? `* as ${name}` : name} from '${from}';`;
  };
  return read(file)
    .replace(/^const (\{[^}]+\}) = require\('(.+)'\);$/gm, "import $1 from '$2';")
    .replace(/^const (\w+) = require\('(.+)'\);$/gm, importOne)
    .replace(NAMES, 'export $1;')
    .replace(/^module\.exports = (\w+);$/m, 'export default $1;');
}

/**
 * Names that the files of the client have between them, and nothing of JavaScript or a page has: they may be
 * short in a page.
 */
const INTERNAL =
  /^(?:addCallback|again|answered|ask|assert2|assertOpen|broke|cancelAll|cancels|client|closed|complained|complaint|deadline|drained|forgets|hear|hold|idText|malformed|stray|isEager|isFinal|isNobody|isRegistered|misunderstood|needs2|needsDrain|opened|options|pace|queued|refusal|requests|resends|full|toText|speaks2|streams|take|waiting|wantDrain|withdraw)$/;

const CLASS = "import WSMsgBroker from './index.js';";

const FORMS = {
  // Beside the class, the name that Node.js finds in the package by itself.
  'wsmsgbroker.mjs': {
    format: 'esm',
    contents: `${CLASS} export default WSMsgBroker; export const { Server } = WSMsgBroker;`,
  },
  'wsmsgbroker.cjs': { format: 'cjs', contents: `${CLASS} module.exports = WSMsgBroker;` },
  'wsmsgbroker.js': { format: 'iife', contents: `${CLASS} globalThis.WSMsgBroker = WSMsgBroker;` },
};

/** What TypeScript must know of a module: its kind, which is in the name, and where the class is. */
const TYPES = {
  'wsmsgbroker.d.mts': "export { default, Server } from '../index.js';\n",
  'wsmsgbroker.d.cts': "import WSMsgBroker = require('../index.js');\n\nexport = WSMsgBroker;\n",
};

async function build(file, { contents, ...form }) {
  const { outputFiles } = await esbuild.build({
    ...form,
    stdin: { contents, resolveDir: path.join(root, 'lib', 'browser'), sourcefile: file },
    // A module of Node.js is an error.
    platform: 'browser',
    bundle: true,
    minify: true,
    write: false,
    mangleProps: INTERNAL,
    target: 'es2022',
    logLevel: 'warning',
    logOverride: { 'commonjs-variable-in-esm': 'silent' },
    plugins: [asModules],
  });
  // Some hundred bytes less than by esbuild alone.
  const { code } = await terser.minify(outputFiles[0].text, {
    ecma: 2020,
    toplevel: true,
    compress: {
      passes: 3,
      unsafe_arrows: true,
      unsafe_methods: true,
      pure_getters: true,
      booleans_as_integers: false,
    },
    format: { preamble: `// ${name} ${version} ${license}` },
  });
  fs.writeFileSync(path.join(folder, file), code);
}

/** Bytes of a file: as it is, and gzipped. */
function measure(file) {
  const bytes = fs.readFileSync(path.join(folder, file));
  return { file, size: bytes.length, gzipped: zlib.gzipSync(bytes, { level: 9 }).length };
}

async function main() {
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder);
  for (const [file, form] of Object.entries(FORMS)) await build(file, form);
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
