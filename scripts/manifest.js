'use strict';

// Changes package.json, and copies its metadata to the files that must agree with it:
//   pack         adds the platform packages as optional dependencies, for the tarball only: a clone
//                builds its own addon, and `npm ci` must not request versions that are not published yet.
//                Fails if a file is not built, because npm would silently omit it
//   unpack       removes them again
//   metadata     copies description, author, license, engines and repository of package.json to npm/*/package.json,
//                Cargo.toml and CODEOWNERS. `--check` changes nothing, and fails if a file differs or a link in a file
//                of the repository leads to another one
//   version      copies the version of package.json to Cargo.toml and Cargo.lock, and gives the section "Unreleased" of
//                CHANGELOG.md this version and the date (`npm version` runs it)
//   repository OWNER/NAME   sets the GitHub repository in package.json, then as `metadata`
//   release      fails if something is missing in package.json or CHANGELOG.md that a release needs

const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');

const root = path.join(__dirname, '..');
const file = path.join(root, 'package.json');
const changelog = path.join(root, 'CHANGELOG.md');
const manifest = JSON.parse(fs.readFileSync(file, 'utf8'));

/** The members of package.json that the packages of the platforms share. npm verifies the origin of each by its own. */
const SHARED = [
  'description',
  'keywords',
  'author',
  'license',
  'homepage',
  'repository',
  'bugs',
  'engines',
];

/** The address of the repository, and its owner. */
function repositoryPage() {
  const page = manifest.repository.url.replace(/^git\+/, '').replace(/\.git$/, '');
  return { page, owner: new URL(page).pathname.split('/')[1] };
}

/** By file, its text with the metadata of package.json. */
function metadata() {
  const { page, owner } = repositoryPage();
  const texts = new Map();
  for (const platform of fs.readdirSync(path.join(root, 'npm'))) {
    const own = path.join(root, 'npm', platform, 'package.json');
    const shared = Object.fromEntries(SHARED.map((name) => [name, manifest[name]]));
    const changed = { ...JSON.parse(fs.readFileSync(own, 'utf8')), ...shared };
    texts.set(own, `${JSON.stringify(changed, null, 2)}\n`);
  }
  const change = (name, ...changes) => {
    const to = path.join(root, name);
    const text = fs.readFileSync(to, 'utf8');
    texts.set(
      to,
      changes.reduce((changed, change) => changed.replace(...change), text),
    );
  };
  const cargo = { description: manifest.description, license: manifest.license, repository: page };
  const members = Object.entries(cargo).map(([name, value]) => [
    new RegExp(`^${name} = ".*"$`, 'm'),
    `${name} = ${JSON.stringify(value)}`,
  ]);
  change('Cargo.toml', ...members);
  change('.github/CODEOWNERS', [/^\* @.+$/m, `* @${owner}`]);
  return texts;
}

/** Folders that git ignores, or that have files of others. */
const FOREIGN = new Set(['.git', '.nodes', 'node_modules', 'original', 'results', 'target']);

/** All text files of a folder, by their paths from the root. */
function sources(folder) {
  return fs.readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const to = path.join(folder, entry.name);
    if (entry.isDirectory()) return FOREIGN.has(entry.name) ? [] : sources(to);
    const isText = entry.isFile() && !/\.(?:node|png|tgz)$/.test(entry.name);
    return isText ? [path.relative(root, to).replaceAll(path.sep, '/')] : [];
  });
}

/** Links to a repository of this name on GitHub that is not the one of package.json, by their files. */
function foreignLinks() {
  const { page } = repositoryPage();
  const name = page.split('/').at(-1);
  return sources(root).flatMap((each) => {
    const text = fs.readFileSync(path.join(root, each), 'latin1');
    const links = text.match(/https:\/\/github\.com\/[\w-]+\/[\w.-]+/g) ?? [];
    return links
      .map((link) => link.replace(/\.git$|\.$/, ''))
      .filter((link) => link.endsWith(`/${name}`) && link !== page)
      .map((link) => `${each}: ${link}, expected ${page}`);
  });
}

/** The changelog, in which the section "Unreleased" belongs to a version, below a new empty one. */
function released(text, version, date) {
  const heading = '## [Unreleased]';
  if (!text.includes(`\n${heading}\n`)) {
    throw new Error(`CHANGELOG.md has no section "${heading}"`);
  }
  return text.replace(heading, `${heading}\n\n## [${version}] - ${date}`);
}

/** Prints errors, and ends with 1 if there are any. */
function fail(errors) {
  if (errors.length > 0) {
    console.error(errors.join('\n'));
    process.exit(1);
  }
}

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
  metadata(flag) {
    const changes = [...metadata()].filter(([to, text]) => fs.readFileSync(to, 'utf8') !== text);
    if (flag !== '--check') {
      for (const [to, text] of changes) write(to, text);
      return;
    }
    const differing = changes.map(([to]) => path.relative(root, to));
    fail(differing.map((each) => `${each}: differs, run \`node scripts/manifest.js metadata\``));
    fail(foreignLinks());
  },
  version() {
    const cargo = path.join(root, 'Cargo.toml');
    const text = fs.readFileSync(cargo, 'utf8');
    write(cargo, text.replace(/^version = ".*"$/m, `version = "${manifest.version}"`));
    execFileSync('cargo', ['update', '--workspace', '--offline'], { cwd: root, stdio: 'inherit' });
    const changes = fs.readFileSync(changelog, 'utf8');
    write(changelog, released(changes, manifest.version, new Date().toISOString().slice(0, 10)));
  },
  repository(repository) {
    if (!/^[\w-]+\/[\w.-]+$/.test(repository ?? '')) {
      console.error('usage: node scripts/manifest.js repository OWNER/NAME');
      process.exit(2);
    }
    const page = `https://github.com/${repository}`;
    manifest.homepage = `${page}#readme`;
    manifest.repository.url = `git+${page}.git`;
    manifest.bugs = `${page}/issues`;
    write(file, `${JSON.stringify(manifest, null, 2)}\n`);
    steps.metadata();
  },
  release() {
    steps.metadata('--check');
    const { version, repository } = manifest;
    const isReleased = fs.readFileSync(changelog, 'utf8').includes(`\n## [${version}] - `);
    fail([
      ...(repository.url.includes('/OWNER/')
        ? ['package.json: no repository, run `node scripts/manifest.js repository OWNER/NAME`']
        : []),
      ...(isReleased ? [] : [`CHANGELOG.md: no section for ${version}, run \`npm version\``]),
    ]);
  },
};

function write(to, text) {
  fs.writeFileSync(`${to}.new`, text);
  fs.renameSync(`${to}.new`, to);
}

module.exports = { released };

if (require.main === module) {
  const [name, argument] = process.argv.slice(2);
  if (!Object.hasOwn(steps, name)) {
    console.error(`usage: node scripts/manifest.js ${Object.keys(steps).join('|')}`);
    process.exit(2);
  }
  steps[name](argument);
}
