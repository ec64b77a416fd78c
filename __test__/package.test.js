'use strict';

// The published package: two tarballs that install together without a compiler or an install script, and a
// helpful error where the addon is missing. Works on a copy and changes nothing in the tree.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { promisify } = require('node:util');
const execFile = promisify(require('node:child_process').execFile);
const test = require('ava');

const root = path.join(__dirname, '..');
const manifest = require('../package.json');
const { released } = require('../scripts/manifest');
const { install, pack } = require('../scripts/pack');
const platforms = fs.readdirSync(path.join(root, 'npm')).sort();

test('the platform packages have the version and the name that the loader expects', (t) => {
  t.is(platforms.length, manifest.napi.targets.length);
  for (const platform of platforms) {
    const platformManifest = require(`../npm/${platform}/package.json`);
    const { name, version, main, os, cpu } = platformManifest;
    t.is(name, `wsmsgbroker-${platform}`);
    t.is(version, manifest.version);
    t.is(main, `wsmsgbroker.${platform}.node`);
    t.is(`${os}-${cpu}`, platform.replace(/-(gnu|musl|msvc)$/, ''));
  }
  const cargo = fs.readFileSync(path.join(root, 'Cargo.toml'), 'utf8');
  t.is(/^version = "(.+)"$/m.exec(cargo)[1], manifest.version);
});

test('package.json has the metadata of the project, and all other files agree with it', async (t) => {
  const script = path.join(root, 'scripts', 'manifest.js');
  await t.notThrowsAsync(node([script, 'metadata', '--check']));
  const { homepage, bugs, repository, author, license } = manifest;
  const [, page] = /^git\+(https:\/\/github\.com\/[\w-]+\/[\w.-]+)\.git$/.exec(repository.url);
  t.deepEqual([homepage, bugs], [`${page}#readme`, `${page}/issues`]);
  t.truthy(author);
  t.regex(fs.readFileSync(path.join(root, 'LICENSE'), 'utf8'), new RegExp(`^${license} License`));
});

test('one command sets the repository in all files that name it', async (t) => {
  const copy = temporary(t);
  const files = ['scripts/manifest.js', 'package.json', 'npm', 'Cargo.toml', 'CHANGELOG.md'];
  for (const name of [...files, '.github/CODEOWNERS']) {
    fs.cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
  }
  const read = (name) => fs.readFileSync(path.join(copy, name), 'utf8');
  const write = (name, text) => fs.writeFileSync(path.join(copy, name), text);
  const script = path.join(copy, 'scripts', 'manifest.js');
  const failure = async (...args) => (await t.throwsAsync(node([script, ...args]))).stderr;
  const unreleased = '# Changelog\n\n## [Unreleased]\n';
  write('CHANGELOG.md', unreleased);
  await node([script, 'repository', 'OWNER/wsmsgbroker']);
  t.regex(await failure('release'), /^package\.json: no repository, .*\nCHANGELOG\.md: no section/);
  await node([script, 'repository', 'acme-1/broker.js']);
  const page = 'https://github.com/acme-1/broker.js';
  for (const name of ['package.json', ...platforms.map((each) => `npm/${each}/package.json`)]) {
    const { homepage, repository, bugs } = JSON.parse(read(name));
    t.deepEqual(
      [homepage, repository.url, bugs],
      [`${page}#readme`, `git+${page}.git`, `${page}/issues`],
    );
  }
  t.regex(read('Cargo.toml'), new RegExp(`^repository = "${page}"$`, 'm'));
  t.regex(read('.github/CODEOWNERS'), /^\* @acme-1$/m);
  await node([script, 'metadata', '--check']);
  t.regex(await failure('release'), /^CHANGELOG\.md: no section for /);
  write('CHANGELOG.md', released(unreleased, manifest.version, '2030-01-01'));
  await node([script, 'release']);

  // Another author, and a link to another repository of this name.
  write('package.json', read('package.json').replace(/"author": ".*"/, '"author": "acme"'));
  const differs = await failure('metadata', '--check');
  t.is(differs.match(/^npm\/\S+: differs/gm).length, platforms.length);
  await node([script, 'metadata']);
  t.is(JSON.parse(read(`npm/${platforms[0]}/package.json`)).author, 'acme');
  write('CHANGELOG.md', 'See https://github.com/former/broker.js/pull/1.\n');
  const expected = `CHANGELOG.md: https://github.com/former/broker.js, expected ${page}\n`;
  t.is(await failure('metadata', '--check'), expected);
});

test('the changelog has the form of Keep a Changelog, and npm version dates its newest section', (t) => {
  const text = fs.readFileSync(path.join(root, 'CHANGELOG.md'), 'utf8');
  const headings = [...text.matchAll(/^## (.*)$/gm)].map(([, heading]) => heading);
  t.is(headings[0], '[Unreleased]');
  for (const heading of headings.slice(1))
    t.regex(heading, /^\[\d+\.\d+\.\d+\S*\] - \d{4}-\d\d-\d\d$/);
  const kinds = ['Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security'];
  for (const section of text.split(/^## .*$/m).slice(1)) {
    const found = [...section.matchAll(/^### (.*)$/gm)].map(([, kind]) => kind);
    t.deepEqual(
      found,
      kinds.filter((kind) => found.includes(kind)),
    );
  }
  const [before, after] = released('# a\n\n## [Unreleased]\n\n- b\n', '1.2.3', '2030-01-01').split(
    '- b',
  );
  t.is(before, '# a\n\n## [Unreleased]\n\n## [1.2.3] - 2030-01-01\n\n');
  t.is(after, '\n');
  t.throws(() => released('# a\n', '1.2.3', '2030-01-01'));
});

test('docs/versions.md names the versions of Node.js that are supported and tested', (t) => {
  const text = fs.readFileSync(path.join(root, 'docs', 'versions.md'), 'utf8');
  const [, lines, last] = /Tested are the lines ([\d, ]+) and (\d+)/.exec(text);
  const tested = fs.readFileSync(path.join(__dirname, 'nodes.js'), 'utf8');
  const [, numbers] = /\[([\d, ]+)\]\.map\(\(line\)/.exec(tested);
  t.is(`${lines}, ${last}`, numbers);
  t.true(text.includes(`Node.js ${manifest.engines.node.slice(2)} and newer`));
});

test('no install script exists, and the lock files name no host', (t) => {
  for (const script of ['preinstall', 'install', 'postinstall'])
    t.false(script in manifest.scripts);
  t.is(manifest.dependencies, undefined);
  for (const folder of [root, path.join(__dirname, 'neighbours')]) {
    t.notRegex(fs.readFileSync(path.join(folder, 'package-lock.json'), 'utf8'), /"resolved":/);
  }
});

test('the lock file lists the packages of every platform', async (t) => {
  const script = path.join(root, 'scripts', 'lock.js');
  await t.notThrowsAsync(node([script, '--check']), 'run `node scripts/lock.js`');
});

test('both tarballs work after installation in an empty folder', async (t) => {
  t.timeout(5 * 60_000);
  const work = temporary(t);
  const { main, addon } = pack(work);
  t.deepEqual(
    main.files.filter((file) => /\.node$|^(src|scripts|npm|__test__)\//.test(file)),
    [],
  );
  t.true(addon.files.some((file) => /^wsmsgbroker\..+\.node$/.test(file)));
  for (const file of filesOf(manifest.exports)) t.true(main.files.includes(file), file);

  const user = path.join(work, 'user');
  // Offline: the packages of the other platforms are not available and not needed.
  install(user, main.tarball, addon.tarball);
  const installed = path.join(user, 'node_modules', 'wsmsgbroker', 'package.json');
  const { optionalDependencies } = JSON.parse(fs.readFileSync(installed, 'utf8'));
  t.deepEqual(
    optionalDependencies,
    Object.fromEntries(platforms.map((name) => [`wsmsgbroker-${name}`, manifest.version])),
  );

  fs.writeFileSync(path.join(user, 'program.js'), `(${program})(require('wsmsgbroker'));`);
  fs.writeFileSync(
    path.join(user, 'program.mjs'),
    `import WSMsgBroker, { Server } from 'wsmsgbroker';
    if (Server !== WSMsgBroker.Server) throw new Error('not the same class');
    (${program})(WSMsgBroker);`,
  );
  for (const file of ['program.js', 'program.mjs']) {
    const { stdout } = await node([file], { cwd: user });
    t.is(stdout, 'server: hello\n');
  }
  for (const command of ['wsbrokerserver', 'wsmsgbroker']) {
    t.true(fs.existsSync(path.join(user, 'node_modules', '.bin', command)), command);
  }
});

test('without an addon the error names the platform and the remedy', async (t) => {
  const folder = temporary(t);
  fs.cpSync(path.join(root, 'lib', 'native.js'), path.join(folder, 'lib', 'native.js'));
  const load = async (prelude = '') => {
    const print = 'console.log(JSON.stringify({ code: error.code, message: error.message }))';
    const script = `${prelude}; try { require('./lib/native.js') } catch (error) { ${print} }`;
    return JSON.parse((await node(['-e', script], { cwd: folder })).stdout);
  };

  const unbuilt = await load();
  t.is(unbuilt.code, 'ERR_WSMB_PLATFORM');
  t.true(unbuilt.message.includes(`${process.platform}-${process.arch}`));
  t.regex(unbuilt.message, /npm run build/);
  for (const platform of platforms) t.true(unbuilt.message.includes(platform));

  fs.copyFileSync(path.join(root, 'binding.js'), path.join(folder, 'binding.js'));
  const missing = await load();
  t.is(missing.code, 'ERR_WSMB_PLATFORM');
  t.regex(missing.message, /--omit=optional/);

  for (const platform of platforms) {
    fs.writeFileSync(path.join(folder, `wsmsgbroker.${platform}.node`), 'not an addon');
  }
  const broken = await load();
  t.is(broken.code, 'ERR_WSMB_PLATFORM');
  t.regex(broken.message, /does not load/);

  const unknown = await load("Object.defineProperty(process, 'platform', { value: 'sunos' })");
  t.is(unknown.code, 'ERR_WSMB_PLATFORM');
  t.true(unknown.message.includes(`sunos-${process.arch}`));
  t.regex(unknown.message, /no package/);
});

// Runs in the user's folder.
function program(WSMsgBroker) {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  server.on('listening', () => {
    const client = new WSMsgBroker('me', '127.0.0.1', server.address().port);
    client.on('message', (message, response) => response.send(`server: ${message}`));
    client.on('registered', () => {
      client.send('hello', 'me', (_from, answer) => {
        console.log(answer);
        client.close();
        server.close();
      });
    });
  });
}

function temporary(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The files in `exports` under any condition. */
function filesOf(target) {
  if (typeof target === 'string') return [path.posix.normalize(target)];
  return Object.values(target).flatMap(filesOf);
}

function node(args, options) {
  return execFile(process.execPath, args, { timeout: 60_000, ...options });
}
