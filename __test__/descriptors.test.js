'use strict';

// Ended connections of clients and servers keep no file descriptor, even while their objects are still
// referenced. Otherwise a program that opens and closes many would run out of descriptors before garbage
// collection.

const path = require('node:path');
const { spawn } = require('node:child_process');
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
