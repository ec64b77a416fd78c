'use strict';

// A broker with many clients ends, and another one starts: measures when each client has reconnected.

const { setTimeout: sleep } = require('node:timers/promises');
const Child = require('../processes');

const END_MS = 10_000;

async function startBroker(port, broken) {
  const broker = new Child('a broker', 'herd/broker.js', [], broken);
  // The new broker can listen at once.
  return { broker, listen: () => broker.ask({ listen: port }, 'port') };
}

/**
 * `way` is `{ down }` (the broker is killed, and the next one listens after `down` ms) or `{ drain }` (it
 * drains for `drain` ms, and the next one has its port at once). With `isBusy`, a request is pending
 * throughout. Resolves with the time in ms after which each client had reconnected.
 */
async function play({ kind, count, reconnect, way }) {
  const children = [];
  const broken = (what) => {
    throw new Error(`${what}`);
  };
  const start = async (port) => {
    const started = await startBroker(port, broken);
    children.push(started.broker);
    return started;
  };
  try {
    const first = await start(0);
    const { port } = await first.listen();
    const args = [kind, port, count, JSON.stringify(reconnect), Boolean(way.isBusy)].map(String);
    const clients = new Child('the clients', 'herd/clients.js', args, broken);
    children.push(clients);
    await clients.message('ready');
    const second = await start(port);
    // The process of the new broker has started and waits.
    await sleep(500);

    const told = clients.message('back');
    const begun = Date.now();
    let listening;
    if (way.drain) {
      await first.broker.ask({ drain: way.drain }, 'closing');
      listening = await second.listen();
    } else {
      first.broker.ending = true;
      first.broker.child.kill('SIGKILL');
      await sleep(way.down);
      listening = await second.listen();
    }
    const { lost, back, failed } = await told;
    const { stats } = await second.broker.ask('stats', 'stats');
    const since = (times) => times.map((at) => at - begun).sort((a, b) => a - b);
    const times = { lost: since(lost), back: since(back) };
    return { ...times, failed, listening: listening.at - begun, registered: stats.registered };
  } finally {
    await Promise.all(children.map((child) => child.end('close', END_MS)));
  }
}

module.exports = play;
