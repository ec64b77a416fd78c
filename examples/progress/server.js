'use strict';

// A long job that a page has asked for, and that tells it how far it is. If the page is closed, or its user has
// had enough, the job learns it at once, and stops.
//
//     node examples/progress/server.js     then open the page; Ctrl-C ends it

const { setTimeout: pause } = require('node:timers/promises');
const WSMsgBroker = require('wsmsgbroker');
const servePages = require('../pages');

const { PORT = '8080', BROKER_PORT = '9042', STEP = '50' } = process.env;
const host = '127.0.0.1';

/** Does what `from` has asked for. */
async function work(server, from, response) {
  let percent = 0;
  try {
    while (percent < 100) {
      server.send(percent, from);
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
    console.log(`a job is given up at ${percent} %`);
  }
}

async function main() {
  // It takes part itself, under a name of its own.
  const server = new WSMsgBroker.Server({ port: BROKER_PORT, host, id: 'worker' });
  // From now on: whoever asks as soon as it listens is not missed.
  const jobs = server.messages();
  await server.ready;
  const { port } = server.address();
  const page = await servePages(__dirname, 'progress.mjs', PORT, () => ({ port }));
  console.log(`Open ${page} (the broker listens at port ${port})`);

  for await (const { from, response } of jobs) {
    // Not awaited: jobs are done beside each other. Who wants no answer wants no job.
    if (response) {
      work(server, from, response);
    }
  }
}

main();
