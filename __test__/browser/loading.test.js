'use strict';

// Ways to load the client in a page: as a file, and by bundlers from the installed package. The page answers
// a request in each case.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { fileURLToPath } = require('node:url');
const test = require('ava');
const esbuild = require('esbuild');
const { install, pack } = require('../../scripts/pack');
const { openPage, startChromium } = require('../../testkit/chromium');
const { registration, startClient, startServer } = require('../support/start');

const chromium = startChromium(test);
const work = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
/** The folder of a user of the package, and the installed package in it. */
const user = path.join(work, 'user');
let installed;

test.before('the package is installed', () => {
  const { main, addon } = pack(work);
  installed = install(user, main.tarball, addon.tarball);
});

test.after.always(() => fs.rmSync(work, { recursive: true, force: true }));

/** The program of each page: answers requests. The query of the page's URL is the broker's address. */
const APP = `
  const client = new WSMsgBroker('page', location.search.slice(1));
  client.on('message', (message, response) => response.send(['the page got', message]));
  Object.assign(window, { WSMsgBroker, client });
`;

const built = (name) => fs.readFileSync(path.join(installed, 'browser', name));
const write = (name, text) => fs.writeFileSync(path.join(user, name), text);

/** Opens the page, sends it a request, and returns the page. */
async function converse(t, files) {
  const server = await startServer(t);
  const asker = await startClient(t, server, 'asker');
  const registered = registration(server, 'page');
  const query = `?ws://127.0.0.1:${server.address().port}`;
  const page = await openPage(t, await chromium.context(t), files, { query });
  await registered;
  const answer = await new Promise((resolve) => {
    asker.send({ text: 'grüße 🦀' }, 'page', (...args) => resolve(args));
  });
  t.deepEqual(answer, ['page', ['the page got', { text: 'grüße 🦀' }]]);
  return page;
}

/** A page that runs the output of a bundler. */
const bundled = (code) => ({
  '/': '<script type="module" src="/app.js"></script>',
  '/app.js': code,
});

test('a page loads the client as a module', async (t) => {
  await converse(t, {
    '/': `<script type="module">import WSMsgBroker from '/client.mjs'; ${APP}</script>`,
    '/client.mjs': built('wsmsgbroker.mjs'),
  });
});

test('a page loads the client as a plain script', async (t) => {
  await converse(t, {
    '/': `<script src="/client.js"></script><script>${APP}</script>`,
    '/client.js': built('wsmsgbroker.js'),
  });
});

test('a production build of Vite contains the client', async (t) => {
  write('index.html', '<script type="module" src="/vite.js"></script>');
  write('vite.js', `import WSMsgBroker from 'wsmsgbroker'; ${APP}`);
  const vite = await import('vite');
  const { output } = await vite.build({
    root: user,
    configFile: false,
    logLevel: 'warn',
    build: { write: false },
  });
  const files = output.map((file) => [`/${file.fileName}`, file.code ?? file.source]);
  await converse(
    t,
    Object.fromEntries([...files, ['/', Object.fromEntries(files)['/index.html']]]),
  );
});

/** The output of esbuild for a browser program. */
function bundle(name, text) {
  write(name, text);
  const { outputFiles } = esbuild.buildSync({
    entryPoints: [path.join(user, name)],
    bundle: true,
    platform: 'browser',
    write: false,
  });
  return outputFiles[0].text;
}

test('a bundle of esbuild contains the client', async (t) => {
  await converse(t, bundled(bundle('import.js', `import WSMsgBroker from 'wsmsgbroker'; ${APP}`)));
});

test('require returns the class, in a bundle too', async (t) => {
  const program = `const WSMsgBroker = require('wsmsgbroker'); ${APP}`;
  const page = await converse(t, bundled(bundle('require.js', program)));
  t.true(await page.evaluate('client instanceof WSMsgBroker && !WSMsgBroker.default'));
});

test('Server throws an explanatory error in a page', async (t) => {
  const code = bundle('server.js', `import { Server } from 'wsmsgbroker'; window.Server = Server;`);
  const page = await openPage(t, await chromium.context(t), bundled(code));
  const thrown = await page.evaluate(() => {
    try {
      return new window.Server(9042);
    } catch (error) {
      const { code, message } = error;
      return { code, message, isError: error instanceof Error };
    }
  });
  t.true(thrown.isError);
  t.regex(thrown.code, /^ERR_WSMB_/);
  t.regex(thrown.message, /Node\.js/);
});

/**
 * The files to which `import` and `require` resolve `name` under this condition in addition to those of
 * Node.js.
 */
function resolve(name, condition) {
  const run = (...args) => {
    const options = { cwd: user, encoding: 'utf8' };
    return execFileSync(process.execPath, [`--conditions=${condition}`, ...args], options).trim();
  };
  const module = `console.log(import.meta.resolve('${name}'))`;
  const imported = fileURLToPath(run('--input-type=module', '-e', module));
  const required = run('-p', `require.resolve('${name}')`);
  const inPackage = (file) => path.relative(fs.realpathSync(installed), file);
  return [imported, required].map((file) => inPackage(file).replaceAll(path.sep, '/'));
}

const ADDON = ['index.js', 'index.js'];
const BROWSER = ['browser/wsmsgbroker.mjs', 'browser/wsmsgbroker.cjs'];

for (const [name, condition, files] of [
  ['wsmsgbroker', 'node', ADDON],
  ['wsmsgbroker', 'deno', ADDON],
  ['wsmsgbroker', 'bun', ADDON],
  ['wsmsgbroker', 'browser', BROWSER],
  ['wsmsgbroker', 'worker', BROWSER],
  ['wsmsgbroker', 'workerd', BROWSER],
  ['wsmsgbroker', 'react-native', BROWSER],
  ['wsmsgbroker/browser', 'node', BROWSER],
]) {
  test(`${name} under the condition ${condition} is ${[...new Set(files)].join(' and ')}`, (t) => {
    t.deepEqual(resolve(name, condition), files);
  });
}
