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
const { install, pack } = require('../scripts/pack');
const platforms = fs.readdirSync(path.join(root, 'npm')).sort();

test('the platform packages have the version and the name that the loader expects', (t) => {
  t.is(platforms.length, manifest.napi.targets.length);
  for (const platform of platforms) {
    const platformManifest = require(`../npm/${platform}/package.json`);
    const { name, version, main, os, cpu, engines, repository } = platformManifest;
    t.is(name, `wsmsgbroker-${platform}`);
    t.is(version, manifest.version);
    t.is(main, `wsmsgbroker.${platform}.node`);
    t.is(`${os}-${cpu}`, platform.replace(/-(gnu|musl|msvc)$/, ''));
    t.deepEqual(engines, manifest.engines);
    t.deepEqual(repository, manifest.repository);
  }
  const cargo = fs.readFileSync(path.join(root, 'Cargo.toml'), 'utf8');
  t.is(/^version = "(.+)"$/m.exec(cargo)[1], manifest.version);
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
