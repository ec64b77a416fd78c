'use strict';

// A broker without traffic does not use the processor: its threads wake at most once a second.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const test = require('ava');

/** Time for which an idle broker is watched, in milliseconds. */
const WATCHED = 5000;

const onLinux = process.platform === 'linux' ? test : test.skip;

/** Prints how often the threads of a broker have waited in that time, after it has served some requests. */
const PROGRAM = `
  const fs = require('node:fs');
  const WSMsgBroker = require(${JSON.stringify(path.join(__dirname, '..'))});
  const waits = () => {
    const read = (id) => fs.readFileSync('/proc/self/task/' + id + '/status', 'utf8');
    const own = fs.readdirSync('/proc/self/task').map(read).filter((text) => /^Name:\\s+wsmsgbroker/.test(text));
    const count = (text) => Number(/^voluntary_ctxt_switches:\\s+(\\d+)/m.exec(text)[1]);
    return own.reduce((sum, text) => sum + count(text), 0);
  };
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  (async () => {
    const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', admin: { port: 0 } });
    await server.ready;
    const client = await new WSMsgBroker('a', '127.0.0.1', server.address().port).connected();
    client.on('message', (message, response) => response.send(message));
    for (let n = 0; n < 10; n += 1) await server.request(n, 'a');
    await pause(4000);
    const before = waits();
    await pause(${WATCHED});
    console.log(waits() - before);
    process.exit();
  })();`;

onLinux('the threads of an idle broker with a connection wake at most once a second', async (t) => {
  const child = spawn(process.execPath, ['-e', PROGRAM], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  await once(child, 'close');
  t.regex(output, /^\d+\n$/);
  t.true(Number(output) <= WATCHED / 1000, output);
});
