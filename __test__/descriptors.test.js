'use strict';

// Ended connections of clients and servers keep no file descriptor, even while their objects are still
// referenced. Otherwise a program that opens and closes many would run out of descriptors before garbage
// collection.

const path = require('node:path');
const util = require('node:util');
const { execFile, spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');

const PROGRAM = path.join(__dirname, 'descriptors', 'program.js');

const linux = process.platform === 'linux' ? test : test.skip;

const SCENES = {
  closed: 'a closed client keeps no descriptor, on either side',
  disconnected: 'a client that its server disconnected keeps no descriptor, on either side',
  early: 'clients that are closed before open keep no descriptors',
  participant: 'a server with a client of its own keeps no descriptors',
};

for (const [name, title] of Object.entries(SCENES)) {
  linux(title, async (t) => {
    const program = spawn(process.execPath, [PROGRAM, name], {
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: 60_000,
      killSignal: 'SIGKILL',
    });
    let stderr = '';
    program.stderr.on('data', (text) => {
      stderr += text;
    });
    t.deepEqual(await once(program, 'close'), [0, null], stderr);
  });
}

const runFile = util.promisify(execFile);

/** The result that a program of attach/descriptors.js prints. */
async function attached(...args) {
  const program = path.join(__dirname, 'attach', 'descriptors.js');
  const limit = [
    '-c',
    'ulimit -n 256; exec "$@"',
    'bash',
    process.execPath,
    '--expose-gc',
    program,
  ];
  const { stdout } = await runFile('bash', [...limit, ...args], { timeout: 60_000 });
  return JSON.parse(stdout);
}

linux(
  'sockets that a broker takes over from an HTTP server leave no descriptor and no object',
  async (t) => {
    const { more, handedOver, collected, memory } = await attached('many', '400');
    t.is(more, 0);
    t.is(handedOver, 401);
    t.true(collected >= 400, String(collected));
    t.is(memory, 0);
  },
);

linux('an upgrade request is refused while no descriptor is left', async (t) => {
  const { errors, refused, later } = await attached('full');
  t.deepEqual(errors, [['ERR_WSMB_ATTACH', 'EMFILE']]);
  t.deepEqual([refused, later], ['503', '101']);
});
