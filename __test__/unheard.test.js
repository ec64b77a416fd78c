'use strict';

// Programs without an `error` listener survive attacks of a server or another client.

const path = require('node:path');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');

const PROGRAM = path.join(__dirname, 'members', 'unheard.js');

async function run(t, name) {
  const program = spawn(process.execPath, [PROGRAM, name], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.teardown(() => program.kill('SIGKILL'));
  const texts = ['', ''];
  [program.stdout, program.stderr].forEach((stream, n) => {
    stream.on('data', (text) => {
      texts[n] += text;
    });
  });
  const [code, signal] = await once(program, 'close');
  const [stdout, stderr] = texts;
  return { code: code ?? signal, result: stdout && JSON.parse(stdout), stderr };
}

const RESULTS = {
  acks: 0,
  answers: 1,
  conflict: [4409, 1],
  violation: [1006, 1],
  payload: [1006, 1],
};

for (const [name, expected] of Object.entries(RESULTS)) {
  test(`${name}: is counted, and does not end the process`, async (t) => {
    const { code, result, stderr } = await run(t, name);
    t.is(code, 0, stderr);
    t.deepEqual(result, expected);
    // The first error of a process is a warning, without any text of the peer.
    t.is(stderr.includes('WSMB_PEER_ERROR'), expected !== 0, stderr);
  });
}

test('a connection that cannot be opened throws an error', async (t) => {
  const { code, stderr } = await run(t, 'refused');
  t.not(code, 0);
  t.regex(stderr, /ECONNREFUSED/);
});
