'use strict';

// The tarballs that users get, made of a copy: nothing in the tree changes. `npm run check:package` has
// publint and attw look at the main one: do its `exports` lead every program to a file that is there, of
// the kind that it expects, and to its types?

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { root, run } = require('./tool');

const windows = process.platform === 'win32';

/** What pages name by its path: a script without types, and the module behind `./browser`, which no
 *  `require` of CommonJS is meant to reach. */
const BY_PATH = ['./browser/wsmsgbroker.js', './browser/wsmsgbroker.mjs'];

/** Runs npm; what it prints. */
function npm(cwd, ...args) {
  const options = { cwd, shell: windows, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] };
  return execFileSync(windows ? 'npm.cmd' : 'npm', args, { ...options, timeout: 120_000 });
}

/** The package of the platform whose addon is built here. */
function builtPlatform() {
  const folders = fs.readdirSync(path.join(root, 'npm'));
  const has = (name) => fs.existsSync(path.join(root, 'npm', name, `wsmsgbroker.${name}.node`));
  const platform = folders.find(has);
  if (!platform) throw new Error('no addon is built: run `npm run build`');
  return platform;
}

/** Packs what is in a folder: the tarball, and the files in it. */
function tarball(folder) {
  const output = npm(folder, 'pack', '--json');
  // The output of prepack and postpack comes first.
  const [{ filename, files }] = JSON.parse(output.slice(output.indexOf('[\n')));
  return { tarball: path.join(folder, filename), files: files.map((file) => file.path) };
}

/** Packs the main package and that of this platform, in a copy below `work`. */
function pack(work) {
  const copy = path.join(work, 'copy');
  const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
  // It is packed as it is; everything else of `npm pack` runs.
  delete manifest.scripts.prepare;
  for (const file of ['README.md', 'LICENSE', 'scripts', 'npm', ...manifest.files]) {
    const from = path.join(root, file);
    if (fs.existsSync(from)) fs.cpSync(from, path.join(copy, file), { recursive: true });
  }
  const text = `${JSON.stringify(manifest, null, 2)}\n`;
  fs.writeFileSync(path.join(copy, 'package.json'), text);
  const main = tarball(copy);
  if (fs.readFileSync(path.join(copy, 'package.json'), 'utf8') !== text) {
    throw new Error('packing has left another package.json than it has found');
  }
  return { main, addon: tarball(path.join(copy, 'npm', builtPlatform())) };
}

/** A folder with the package installed as users do, without network. */
function install(folder, ...tarballs) {
  fs.mkdirSync(folder, { recursive: true });
  npm(folder, 'install', '--offline', '--ignore-scripts', ...tarballs);
  return path.join(folder, 'node_modules', 'wsmsgbroker');
}

function check() {
  const work = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  process.on('exit', () => fs.rmSync(work, { recursive: true, force: true }));
  const { main } = pack(work);
  const bin = (name) => path.join(root, 'node_modules', '.bin', windows ? `${name}.cmd` : name);
  const options = { shell: windows };
  run(bin('publint'), ['run', main.tarball, '--strict'], options);
  const which = ['--profile', 'node16', '--exclude-entrypoints', ...BY_PATH];
  run(bin('attw'), [main.tarball, ...which, '--no-definitely-typed'], options);
}

module.exports = { pack, install };

if (require.main === module) check();
