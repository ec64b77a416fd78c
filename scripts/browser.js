'use strict';

// Builds browser/ from lib/browser/ in three formats, and prints their sizes:
//   wsmsgbroker.mjs   an ES module: the class is its default export
//   wsmsgbroker.cjs   CommonJS: the class is what `require` returns
//   wsmsgbroker.js    for a plain <script>: the class is the global WSMsgBroker
// Fails if a file is larger than the limit.

const fs = require('node:fs');
const path = require('node:path');
const zlib = require('node:zlib');
const esbuild = require('esbuild');
const terser = require('terser');
const { name, version, license } = require('../package.json');

/** Maximum size of each file in bytes, minified and gzipped: 8 KiB for messages and requests, the rest for topics, presence and sessions. */
const LIMIT = 16 * 1024;

const root = path.join(__dirname, '..');
const folder = path.join(root, 'browser');

/**
 * Converts the CommonJS modules of lib/ to ES modules, which a bundle joins in one scope. CommonJS modules would each
 * keep a function around them, a tenth of the bundle. Only the forms of `require` and `module.exports` that lib/ uses
 * are supported.
 */
const asModules = {
  name: 'as-modules',
  setup({ onLoad }) {
    onLoad({ filter: /\/lib\/.*\.js$/ }, ({ path: file }) => ({ contents: asModule(file) }));
  },
};

/** A `module.exports` that is an object of names. All other modules export one value. */
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
 * Properties that the classes in lib/ have for each other alone. The bundle shortens their names wherever they occur,
 * so that none may be a property of an object of JavaScript or of a browser: `checkInternal` verifies that.
 */
const INTERNAL = [
  'acceptsEarlyFrames',
  'addCallback',
  'addFrame',
  'afterEvents',
  'answersHeap',
  'assertOpen',
  'assertVersion2',
  'cancelAll',
  'cancelHandlers',
  'characters',
  'client',
  'countBuffered',
  'countEvent',
  'deadline',
  'drainTo',
  'endStream',
  'fail',
  'failMatching',
  'failReceiver',
  'frameText',
  'handleFrame',
  'handler',
  'hasLostId',
  'idText',
  'ignoresStrayAnswers',
  'isEnding',
  'isPaused',
  'isRegistered',
  'isSingle',
  'isStrict',
  'lastError',
  'messageStreams',
  'needsDrain',
  'nextReference',
  'offersVersion2',
  'onAnswer',
  'onEnd',
  'onFailure',
  'onReceipt',
  'onRegistered',
  'onPresence',
  'onRefusal',
  'onRefused',
  'onResend',
  'onStrayAnswer',
  'onSubscribed',
  'onTransportClose',
  'onTransportDrain',
  'onTransportError',
  'onTransportFailure',
  'onTransportOpen',
  'onUnheardError',
  'onUnsubscribed',
  'onUnwatched',
  'pushMessage',
  'queuedItem',
  'receivers',
  'registerFrame',
  'removeAll',
  'removeFrame',
  'emitError',
  'reportHandlerError',
  'reportPeerError',
  'requestDrain',
  'requests',
  'resendsRequests',
  'resolveEnd',
  'setWindow',
  'runCallback',
  'saturatedStreams',
  'sendFrame',
  'sendQueue',
  'sendRequest',
  'settings',
  'subscriptions',
  'toJsonText',
  'toText',
  'updateFlowControl',
  'updateReading',
  'usesVersion2',
  'watches',
  'whenQuiet',
];

/** Throws if the declarations of TypeScript for ECMAScript or for browsers have a property with an internal name. */
function checkInternal() {
  const types = path.dirname(require.resolve('typescript'));
  const names = INTERNAL.join('|');
  for (const file of fs.readdirSync(types).filter((name) => /^lib\..*\.d\.ts$/.test(name))) {
    const text = fs.readFileSync(path.join(types, file), 'utf8');
    const found = new RegExp(`^ +(?:readonly |get |set )?"?(${names})"?[?:(<]`, 'm').exec(text);
    if (found) throw new Error(`"${found[1]}" is a property of an object in ${file}: rename it`);
  }
}

const CLASS = "import WSMsgBroker from './index.js';";

const FORMS = {
  // The named export that Node.js also finds in the CommonJS package.
  'wsmsgbroker.mjs': {
    format: 'esm',
    contents: `${CLASS} export { WSMsgBroker as default }; export const Server = WSMsgBroker.Server;`,
  },
  'wsmsgbroker.cjs': { format: 'cjs', contents: `${CLASS} module.exports = WSMsgBroker;` },
  'wsmsgbroker.js': { format: 'iife', contents: `${CLASS} globalThis.WSMsgBroker = WSMsgBroker;` },
};

/** The declarations of both module formats. The extension tells TypeScript the format. */
const TYPES = {
  'wsmsgbroker.d.mts': "export { default, Server } from '../index.js';\n",
  'wsmsgbroker.d.cts': "import WSMsgBroker = require('../index.js');\n\nexport = WSMsgBroker;\n",
};

async function build(file, { contents, ...form }) {
  const { outputFiles } = await esbuild.build({
    ...form,
    stdin: { contents, resolveDir: path.join(root, 'lib', 'browser'), sourcefile: file },
    // Modules of Node.js are an error.
    platform: 'browser',
    bundle: true,
    minify: true,
    write: false,
    mangleProps: new RegExp(`^(?:${INTERNAL.join('|')})$`),
    target: 'es2022',
    logLevel: 'warning',
    logOverride: { 'commonjs-variable-in-esm': 'silent' },
    plugins: [asModules],
  });
  // Terser saves some hundred bytes more than esbuild alone.
  const { code } = await terser.minify(outputFiles[0].text, {
    ecma: 2020,
    toplevel: true,
    compress: {
      passes: 3,
      unsafe_arrows: true,
      unsafe: true,
      unsafe_methods: true,
      pure_getters: true,
      booleans_as_integers: false,
    },
    format: { preamble: `// ${name} ${version} ${license}` },
  });
  fs.writeFileSync(path.join(folder, file), code);
}

/** The size of a file in bytes, and its size gzipped. */
function measure(file) {
  const bytes = fs.readFileSync(path.join(folder, file));
  return { file, size: bytes.length, gzipped: zlib.gzipSync(bytes, { level: 9 }).length };
}

async function main() {
  checkInternal();
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder);
  for (const [file, form] of Object.entries(FORMS)) await build(file, form);
  for (const [file, text] of Object.entries(TYPES)) {
    fs.writeFileSync(path.join(folder, file), text);
  }
  for (const { file, size, gzipped } of Object.keys(FORMS).map(measure)) {
    const show = (bytes) => bytes.toLocaleString('en-US');
    const limits = `${show(gzipped)} gzipped, of ${show(LIMIT)} at most`;
    console.log(`browser/${file}: ${show(size)} bytes, ${limits}`);
    if (gzipped > LIMIT) process.exitCode = 1;
  }
  if (process.exitCode) console.error('the browser client is too large');
}

main();
