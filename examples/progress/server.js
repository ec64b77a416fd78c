'use strict';

// A long job that a page starts by a request, and that sends its progress to the page. If the page is closed, or
// its user cancels the job, `response.signal` aborts it.
//
//     node examples/progress/server.js     then open the page; Ctrl-C ends it

const { setTimeout: pause } = require('node:timers/promises');
const WSMsgBroker = require('wsmsgbroker');
const servePages = require('../pages');

const { PORT = '8080', BROKER_PORT = '9042', STEP = '50' } = process.env;
const host = '127.0.0.1';

/** The job of a page, whose id is `from`. */
async function work(server, from, response) {
  let percent = 0;
  try {
    while (percent < 100) {
      server.send(percent, from);
      // Stands for the work. Most asynchronous functions of Node.js accept a signal.
      await pause(Number(STEP), undefined, { signal: response.signal });
      percent += 1;
    }
    response?.send('done');
    console.log('a job is done');
  } catch (error) {
    if (error.name !== 'AbortError') {
      throw error;
    }
    console.log(`a job is given up at ${percent} %`);
  }
}

async function main() {
  // With the option `id` the server has a client of its own.
  const server = new WSMsgBroker.Server({ port: BROKER_PORT, host, id: 'worker' });
  // Before the server listens, so that no request is missed.
  const jobs = server.messages();
  await server.ready;
  const { port } = server.address();
  const page = await servePages(__dirname, 'progress.mjs', PORT, () => ({ port }));
  console.log(`Open ${page} (the broker listens at port ${port})`);

  for await (const { from, response } of jobs) {
    // Not awaited: jobs run concurrently. A message without a response is not a job.
    if (response) {
      work(server, from, response);
    }
  }
}

main();
