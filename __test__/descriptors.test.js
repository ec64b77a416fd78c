'use strict';

// A connection that has ended keeps no descriptor, neither of a client nor of a server, whoever still holds its
// object: a program that opens and closes many would run out of them before the garbage collection.

const path = require('node:path');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');

const PROGRAM = path.join(__dirname, 'descriptors', 'program.js');

const linux = process.platform === 'linux' ? test : test.skip;

const SCENES = {
  closed: 'a client has no descriptor once it says that it is closed, and nor has its server',
  disconnected: 'a client that its server disconnects has none, and nor has the server',
  early: 'clients that are closed before they are open have none',
  participant: 'a server that takes part itself leaves none behind',
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
