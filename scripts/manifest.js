'use strict';

// What package.json and Cargo.toml must say at certain moments:
//   pack     names the platform packages as optional dependencies, for the tarball only: a clone
//            builds its own addon, and `npm ci` must not ask for versions not published yet. Refuses
//            where something is not built: npm would leave it out without a word
//   unpack   takes them out again
//   version  gives Cargo.toml and Cargo.lock the version of package.json (`npm version` runs it)

const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');

const root = path.join(__dirname, '..');
const file = path.join(root, 'package.json');
const manifest = JSON.parse(fs.readFileSync(file, 'utf8'));

const steps = {
  pack() {
    const missing = manifest.files.filter((name) => !fs.existsSync(path.join(root, name)));
    if (missing.length > 0) {
      console.error(`not there: ${missing.join(', ')}: run \`npm run build\``);
      process.exit(1);
    }
    const platforms = fs.readdirSync(path.join(root, 'npm')).sort();
    manifest.optionalDependencies = Object.fromEntries(
      platforms.map((platform) => [`${manifest.name}-${platform}`, manifest.version]),
    );
    write(file, `${JSON.stringify(manifest, null, 2)}\n`);
  },
  unpack() {
    delete manifest.optionalDependencies;
    write(file, `${JSON.stringify(manifest, null, 2)}\n`);
  },
  version() {
    const cargo = path.join(root, 'Cargo.toml');
    const text = fs.readFileSync(cargo, 'utf8');
    write(cargo, text.replace(/^version = ".*"$/m, `version = "${manifest.version}"`));
    execFileSync('cargo', ['update', '--workspace', '--offline'], { cwd: root, stdio: 'inherit' });
  },
};

const step = steps[process.argv[2]];
if (!step) {
  console.error(`usage: node scripts/manifest.js ${Object.keys(steps).join('|')}`);
  process.exit(2);
}
step();

function write(to, text) {
  fs.writeFileSync(`${to}.new`, text);
  fs.renameSync(`${to}.new`, to);
}
