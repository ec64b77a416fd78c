'use strict';

// Installs every supported Node.js version, Deno and Bun into .nodes/, and runs a short conversation under
// each: with the addon, whose single binary must work in all of them, and with the browser client where
// WebSocket exists.

const fs = require('node:fs');
const path = require('node:path');
const { once } = require('node:events');
const { execFileSync, spawnSync } = require('node:child_process');

const folder = path.join(__dirname, '.nodes');
const { arch } = process;
const windows = process.platform === 'win32';
const platform = windows ? 'win' : process.platform;

const ADDON = [__filename, 'addon'];
const LIFECYCLE = [path.join(__dirname, 'lifecycle', 'programs.js'), 'end workers', '3'];
const ATTACHED = [path.join(__dirname, 'attach', 'matrix.js')];
const BROWSER = [path.join(__dirname, 'support', 'browser.mjs')];

// The packages with the binaries of npm's packages `node`, `deno` and `bun`. They are installed directly,
// because those packages fetch them in an install script.
const RUNTIMES = {
  ...Object.fromEntries([18, 20, 22, 24, 26].map((line) => [`node${line}`, node(line)])),
  deno2: {
    from: `@deno/${process.platform}-${arch}${process.platform === 'linux' ? '-glibc' : ''}@2`,
    program: 'deno',
    // The browser client needs network permission only.
    runs: [
      ['run', '-A', ...ADDON],
      ['run', '-A', ...ATTACHED],
      ['run', '--allow-net=127.0.0.1', ...BROWSER],
    ],
  },
  bun1: {
    from: `@oven/bun-${windows ? 'windows' : platform}-${arch === 'arm64' ? 'aarch64' : arch}@1`,
    program: 'bin/bun',
    runs: [ADDON, ATTACHED, BROWSER],
  },
};

function node(line) {
  return {
    from: `node-${platform}-${arch}@${line}`,
    program: 'bin/node',
    runs: [ADDON, LIFECYCLE, ATTACHED, ...(line < 22 ? [] : [BROWSER])],
  };
}

function install() {
  const wanted = Object.entries(RUNTIMES).map(([name, { from }]) => `${name}@npm:${from}`);
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n');
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--no-package-lock'];
  execFileSync(windows ? 'npm.cmd' : 'npm', ['install', ...options, ...wanted], {
    cwd: folder,
    stdio: 'inherit',
    shell: windows,
  });
}

/** Runs the conversations under a runtime. Returns whether all of them were completed. */
function check([name, { program, runs }], address) {
  const file = path.join(folder, 'node_modules', name, program) + (windows ? '.exe' : '');
  console.log(
    `${name}: ${spawnSync(file, ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0]}`,
  );
  for (const run of runs) {
    const options = { stdio: 'inherit', timeout: 60_000 };
    const { status, signal, error } = spawnSync(file, [...run, address], options);
    if (status !== 0) {
      console.error(`not ok: ${name} (${error?.message ?? signal ?? `exit code ${status}`})`);
      return false;
    }
  }
  return true;
}

async function main() {
  install();
  // The server of the browser client. It routes while this thread waits.
  const server = new (require('..').Server)({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const address = `ws://127.0.0.1:${server.address().port}`;
  const runtimes = Object.entries(RUNTIMES);
  const failed = runtimes.filter((runtime) => !check(runtime, address)).length;
  await server.close();
  console.log(`${runtimes.length - failed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

// Runs under the tested runtime and ends by itself when everything is closed.
async function conversation() {
  const WSMsgBroker = require('..');
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const { port } = server.address();
  const [asker, echo] = ['asker', 'echo'].map((id) => new WSMsgBroker(id, '127.0.0.1', port));
  await Promise.all([once(asker, 'registered'), once(echo, 'registered')]);

  const message = { text: 'grüße 🦀', list: [1, null, true], long: 'x'.repeat(100_000) };
  echo.on('message', (received, response) => response.send(received));
  const answer = await new Promise((resolve) => {
    asker.send(message, 'echo', (_from, received) => resolve(received));
  });
  require('node:assert').deepStrictEqual(answer, message);

  const closed = once(echo, 'close');
  await asker.close();
  await server.close();
  await closed;
  console.log('ok: the addon');
}

if (process.argv[2] === 'addon') {
  conversation();
} else {
  main();
}
