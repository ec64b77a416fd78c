'use strict';

// The stacks of errors name lines of the program, although nothing of it runs when the errors arise.

const { execFile } = require('node:child_process');
const path = require('node:path');
const test = require('ava');
const { startServer } = require('./support/start');
const { join } = require('./support/clients');

test('the error of a rejected promise names the functions that await it', async (t) => {
  const server = await startServer(t);
  const client = await join(t, 'addon', server, 'a');
  const calls = {
    request: () => client.request(1, 'nobody'),
    requestAll: () => client.requestAll(1, ['a'], { count: 0.5 }),
    deliver: () => client.deliver(1, 'a', { signal: AbortSignal.timeout(1) }),
    connected: () => client.connected({ timeout: 0 }),
    server: () => server.request(1, 'nobody'),
  };
  await server.client.connected();
  for (const [name, call] of Object.entries(calls)) {
    const caller = {
      async [`from_${name}`]() {
        await call();
      },
    };
    if (name === 'deliver') await client.close();
    const error = await t.throwsAsync(caller[`from_${name}`]());
    t.regex(error.stack, new RegExp(`from_${name} .*stacks\\.test\\.js`), name);
    t.is(error.stack.split(`from_${name} `).length, 2, 'named once');
  }
});

test('an uncaught error of a connection names the line that created the client', async (t) => {
  const program = `
    const B = require('./index.js');
    function createClient() { return new B('a', 'ws://127.0.0.1:1/'); }
    class Mine extends B {}
    function createMine() { return new Mine('a', 'ws://127.0.0.1:1/').on('error', (e) => console.log(e.stack)); }
    createMine();
    setTimeout(createClient, 1);`;
  const cwd = path.join(__dirname, '..');
  const { stdout, stderr, code } = await new Promise((resolve) => {
    execFile(process.execPath, ['-e', program], { cwd }, (error, stdout, stderr) =>
      resolve({ stdout, stderr, code: error?.code }),
    );
  });
  t.is(code, 1);
  t.regex(stderr, /The client was created here:\n +at new WSMsgBroker .*\n +at .*createClient/);
  // A listener knows which client it is.
  t.notRegex(stdout, /created here/);
});
