'use strict';

// Runs the WebSocket cases of the Autobahn test suite against the broker and the Node.js client:
// `node scripts/autobahn/run.js`. See README.md beside this file.

const { once } = require('node:events');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const WebSocket = require('ws');
const WSMsgBroker = require('../..');

const PYTHON = process.env.AUTOBAHN_PYTHON ?? 'python2.7';
const HOST = '127.0.0.1';
/**
 * Cases that do not apply: binary messages, which rule 1.4 refuses; compression, which is not negotiated; and 10.1.1, which
 * counts the frames of Autobahn itself, of which one more registers.
 */
const EXCLUDED = ['1.2.*', '9.2.*', '9.4.*', '9.6.*', '9.8.*', '10.1.1', '12.*', '13.*'];
/**
 * Cases that expect a pong before the echo of a message that arrived behind the ping. Pongs are written after the
 * messages of the same read, so the result depends on timing. RFC 6455 does not require the order.
 */
const KNOWN = ['5.6', '5.7', '5.8', '5.19', '5.20'];
const PASSED = ['OK', 'NON-STRICT', 'INFORMATIONAL'];

const reports = path.join(__dirname, '..', '..', 'target', 'autobahn');

function start(subject, url, cases) {
  const script = path.join(__dirname, 'peer.py');
  const args = ['-u', script, subject, url, path.join(reports, subject), cases, EXCLUDED.join()];
  const python = spawn(PYTHON, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  process.on('exit', () => python.kill());
  return python;
}

/** The broker: Autobahn connects to it. */
async function testServer(cases) {
  // Case 9.3.1 has 65,536 fragments.
  const server = new WSMsgBroker.Server({ port: 0, host: HOST, maxFragments: 2 ** 17 });
  await server.ready;
  const python = start('server', `ws://${HOST}:${server.address().port}`, cases);
  python.stdout.resume();
  await once(python, 'exit');
  await server.close();
}

/** The client: it connects to Autobahn, once per case, and sends each message back. */
async function testClient(cases) {
  const url = `ws://${HOST}:9001`;
  const python = start('client', url, cases);
  await new Promise((resolve, reject) => {
    let output = '';
    python.on('exit', (code) => reject(new Error(`Autobahn ended with status ${code}`)));
    python.stdout.on('data', (text) => {
      output += text;
      if (/^Cases = /m.test(output)) resolve();
    });
  });
  const count = Number(await ask(`${url}/getCaseCount`));
  for (let number = 1; number <= count; number += 1) {
    const client = new WSMsgBroker('echo', `${url}/runCase?agent=wsmsgbroker&case=${number}`);
    // `once` would reject for the errors that most cases are about.
    client.on('error', () => {});
    client.on('message', (message) => client.send(message, 'autobahn'));
    await new Promise((resolve) => client.on('close', resolve));
  }
  await ask(`${url}/updateReports?agent=wsmsgbroker`);
  python.kill();
  await once(python, 'exit');
}

/** Sends a command to Autobahn's server: the last message until it closes. */
async function ask(url) {
  const socket = new WebSocket(url);
  let answer;
  socket.on('message', (data) => {
    answer = data.toString();
  });
  await once(socket, 'close');
  return answer;
}

/** Prints the results, and returns how many cases have failed. */
function report(subject) {
  const index = JSON.parse(fs.readFileSync(path.join(reports, subject, 'index.json'), 'utf8'));
  const results = Object.entries(index.wsmsgbroker);
  const counts = {};
  for (const [, { behavior }] of results) counts[behavior] = (counts[behavior] ?? 0) + 1;
  const failed = results.filter(
    ([name, { behavior, behaviorClose }]) =>
      (!PASSED.includes(behavior) && !KNOWN.includes(name)) || !PASSED.includes(behaviorClose),
  );
  console.log(`${subject}: ${results.length} cases`, counts);
  for (const [name, { behavior, behaviorClose }] of failed) {
    console.log(`  ${name}: ${behavior}, close: ${behaviorClose}`);
  }
  return failed.length;
}

async function main() {
  const { values } = parseArgs({
    options: { cases: { type: 'string', default: '*' }, only: { type: 'string' } },
  });
  let failed = 0;
  for (const [subject, run] of Object.entries({ server: testServer, client: testClient })) {
    if (values.only !== undefined && values.only !== subject) continue;
    fs.rmSync(path.join(reports, subject), { recursive: true, force: true });
    fs.mkdirSync(path.join(reports, subject), { recursive: true });
    await run(values.cases);
    failed += report(subject);
  }
  process.exitCode = failed > 0 ? 1 : 0;
}

main();
