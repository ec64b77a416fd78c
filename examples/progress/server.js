'use strict';

// A long job that a page has asked for, and that tells it how far it is. If the page is closed, or its user has
// had enough, the job learns it at once, and stops.
//
//     node examples/progress/server.js     then open the page; Ctrl-C ends it

const { once } = require('node:events');
const { setTimeout: pause } = require('node:timers/promises');
const WSMsgBroker = require('wsmsgbroker');
const servePages = require('../pages');

const { PORT = '8080', BROKER_PORT = '9042', STEP = '50' } = process.env;
const host = '127.0.0.1';

/** Does what `from` has asked for. */
async function work(worker, from, response) {
  let percent = 0;
  try {
    while (percent < 100) {
      worker.send(percent, from);
      // Instead of work: a function that takes a signal, as most of Node's do, stops by itself.
      await pause(Number(STEP), undefined, { signal: response.signal });
      percent += 1;
    }
    response.send('done');
    console.log('a job is done');
  } catch (error) {
    if (error.name !== 'AbortError') {
      throw error;
    }
    console.log(`a job is given up at ${percent} %: ${response.signal.reason.message}`);
  }
}

async function main() {
  const server = new WSMsgBroker.Server({ port: BROKER_PORT, host });
  await once(server, 'listening');
  const { port } = server.address();
  const worker = new WSMsgBroker('worker', host, port, '/', { protocol: 2 });
  // From now on: whoever asks as soon as the worker is there is not missed.
  const jobs = worker.messages();
  await worker.connected();
  const page = await servePages(__dirname, 'progress.mjs', PORT, () => ({ port }));
  console.log(`Open ${page} (the broker listens at port ${port})`);

  for await (const { from, response } of jobs) {
    // Not awaited: jobs are done beside each other. Who wants no answer wants no job.
    if (response) {
      work(worker, from, response);
    }
  }
}

main();
