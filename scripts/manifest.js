'use strict';

// Changes package.json and the files that must agree with it:
//   pack         adds the platform packages as optional dependencies, for the tarball only: a clone
//                builds its own addon, and `npm ci` must not request versions that are not published yet.
//                Fails if a file is not built, because npm would silently omit it
//   unpack       removes them again
//   version      copies the version of package.json to Cargo.toml and Cargo.lock (`npm version` runs it)
//   repository OWNER/NAME   sets the GitHub repository in package.json, npm/*/package.json and CODEOWNERS

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
      console.error(`missing: ${missing.join(', ')}: run \`npm run build\``);
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
  repository(repository) {
    const [, owner] = /^([\w-]+)\/[\w.-]+$/.exec(repository ?? '') ?? [];
    if (owner === undefined) {
      console.error('usage: node scripts/manifest.js repository OWNER/NAME');
      process.exit(2);
    }
    const page = `https://github.com/${repository}`;
    manifest.homepage = `${page}#readme`;
    manifest.repository.url = `git+${page}.git`;
    manifest.bugs = `${page}/issues`;
    write(file, `${JSON.stringify(manifest, null, 2)}\n`);
    // npm verifies the origin of each published package by its own `repository`.
    for (const platform of fs.readdirSync(path.join(root, 'npm'))) {
      const own = path.join(root, 'npm', platform, 'package.json');
      const changed = {
        ...JSON.parse(fs.readFileSync(own, 'utf8')),
        repository: manifest.repository,
      };
      write(own, `${JSON.stringify(changed, null, 2)}\n`);
    }
    const owners = path.join(root, '.github', 'CODEOWNERS');
    write(owners, fs.readFileSync(owners, 'utf8').replace(/^\* @.+$/m, `* @${owner}`));
  },
};

const [name, argument] = process.argv.slice(2);
if (!Object.hasOwn(steps, name)) {
  console.error(`usage: node scripts/manifest.js ${Object.keys(steps).join('|')}`);
  process.exit(2);
}
steps[name](argument);

function write(to, text) {
  fs.writeFileSync(`${to}.new`, text);
  fs.renameSync(`${to}.new`, to);
}
