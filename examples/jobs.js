'use strict';

// A job queue. The workers are processes in a group: each takes one job at a time, and publishes its progress on a topic
// of the job. One worker is killed in the middle of a job, which another one then does.

const { fork } = require('node:child_process');
const { setTimeout: pause } = require('node:timers/promises');
const WSMsgBroker = require('wsmsgbroker');

const JOBS = ['job-1', 'job-2', 'job-3', 'job-4', 'job-5', 'job-6'];
const WORKERS = ['worker-1', 'worker-2', 'worker-3'];
/** Duration of a quarter of a job, in milliseconds. */
const QUARTER = 100;

/** A worker. It ends when the broker does. */
async function work(id, port) {
  const worker = new WSMsgBroker(id, '127.0.0.1', port, '/', { protocol: 2 });
  const jobs = await worker.subscribe('jobs', { group: 'workers', window: 1 });
  jobs.handle(async (job, { attempt, signal }) => {
    for (const percent of [25, 50, 75, 100]) {
      // Stands for the work. `signal` aborts if the result is no longer wanted.
      await pause(QUARTER, undefined, { signal });
      worker.publish({ percent, attempt }, `progress.${job}`);
    }
    return { attempt };
  });
}

async function main() {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await server.ready;
  const { port } = server.address();
  const processes = new Map(WORKERS.map((id) => [id, fork(__filename, [id, port])]));

  const client = new WSMsgBroker('client', '127.0.0.1', port, '/', { protocol: 2 });
  let killed;
  const progress = await client.subscribe('progress.*');
  progress.on('message', ({ percent, attempt }, _response, from, topic) => {
    if (topic !== 'progress.job-1' || from === killed) return;
    console.log(`job-1, attempt ${attempt}: ${percent} %`);
    if (percent === 50 && attempt === 1) {
      killed = from;
      processes.get(from).kill('SIGKILL');
      console.log('job-1: its worker is killed');
    }
  });

  // `waitFor`: the workers need a moment to subscribe. `retry`: jobs may be done twice.
  const options = { waitFor: 10_000, retry: 3 };
  const results = await Promise.all(
    JOBS.map((job) => client.request(job, { topic: 'jobs' }, options)),
  );
  for (const [n, { message }] of results.entries()) {
    console.log(`${JOBS[n]}: done in attempt ${message.attempt}`);
  }
  await client.close();
  await server.close();
}

const [id, port] = process.argv.slice(2);
if (id) {
  work(id, port);
} else {
  main();
}
