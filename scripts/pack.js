'use strict';

// Packs the published tarballs from a copy of the tree. `npm run check:package` also runs publint and attw on
// the main one: `exports` must lead every program to an existing file of the expected kind, and to its types.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { root, run } = require('./tool');

const windows = process.platform === 'win32';

/**
 * Files that pages load by path: a script without types, and the module behind `./browser`, which CommonJS
 * cannot require.
 */
const BY_PATH = ['./browser/wsmsgbroker.js', './browser/wsmsgbroker.mjs'];

/** Runs npm. Returns its output. */
function npm(cwd, ...args) {
  const options = { cwd, shell: windows, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] };
  return execFileSync(windows ? 'npm.cmd' : 'npm', args, { ...options, timeout: 120_000 });
}

/** The platform package whose addon is built here. */
function builtPlatform() {
  const folders = fs.readdirSync(path.join(root, 'npm'));
  const has = (name) => fs.existsSync(path.join(root, 'npm', name, `wsmsgbroker.${name}.node`));
  const platform = folders.find(has);
  if (!platform) throw new Error('no addon is built: run `npm run build`');
  return platform;
}

/** Packs the package in a folder. Returns the tarball and its files. */
function tarball(folder) {
  const output = npm(folder, 'pack', '--json');
  // The output of prepack and postpack comes first.
  const [{ filename, files }] = JSON.parse(output.slice(output.indexOf('[\n')));
  return { tarball: path.join(folder, filename), files: files.map((file) => file.path) };
}

/** Packs the main package and that of this platform in a copy below `work`. */
function pack(work) {
  const copy = path.join(work, 'copy');
  const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
  // The copy is packed without a build. All other scripts of `npm pack` run.
  delete manifest.scripts.prepare;
  for (const file of ['README.md', 'LICENSE', 'scripts', 'npm', ...manifest.files]) {
    const from = path.join(root, file);
    if (fs.existsSync(from)) fs.cpSync(from, path.join(copy, file), { recursive: true });
  }
  const text = `${JSON.stringify(manifest, null, 2)}\n`;
  fs.writeFileSync(path.join(copy, 'package.json'), text);
  const main = tarball(copy);
  if (fs.readFileSync(path.join(copy, 'package.json'), 'utf8') !== text) {
    throw new Error('packing has changed package.json');
  }
  return { main, addon: tarball(path.join(copy, 'npm', builtPlatform())) };
}

/** A folder with the package installed as by a user, without network. */
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
