'use strict';

// Clusters of brokers, and the rivals they are compared with: `npm run bench -- --cluster`.

const { spawnSync } = require('node:child_process');
const { natsVersion } = require('../driver/nats');
const { NO_NATS, known, meant, missingAddon, version } = require('../driver/rivals');
const { System } = require('./system');
const { targets } = require('./targets');

const OURS = { script: 'wsmsgbroker.js', System };
const SOCKETIO = { script: 'socketio-redis.js', hub: 'redis', brokers: 2, System };

/**
 * The rivals: number of brokers, the hub between them, and whether senders and receivers are on `one` broker
 * or `apart`. Targets apply to those that are `judged`.
 */
const RIVALS = [
  { ...OURS, name: 'single', brokers: 1, ends: 'one', judged: true },
  { ...OURS, name: 'cluster-1', hub: 'nats', brokers: 1, ends: 'one', judged: true },
  { ...OURS, name: 'cluster-2', hub: 'nats', brokers: 2, ends: 'one', judged: true },
  { ...OURS, name: 'cluster-2-apart', hub: 'nats', brokers: 2, ends: 'apart', judged: true },
  { ...OURS, name: 'cluster-3', hub: 'nats', brokers: 3, ends: 'one' },
  { ...OURS, name: 'cluster-3-apart', hub: 'nats', brokers: 3, ends: 'apart' },
  // Messages to a topic instead of ids; for `fanout` alone.
  {
    ...OURS,
    name: 'topics-2-apart',
    args: ['--topics'],
    hub: 'nats',
    brokers: 2,
    ends: 'apart',
    judged: true,
  },
  { name: 'nats', script: 'nats.js', System, brokers: 1, ends: 'one', judged: true },
  { ...SOCKETIO, name: 'socketio', ends: 'one' },
  { ...SOCKETIO, name: 'socketio-apart', ends: 'apart', judged: true },
  { ...SOCKETIO, name: 'socketio-sharded', args: ['--sharded'], ends: 'apart', onRequest: true },
];

const redisVersion = () =>
  spawnSync('redis-server', ['--version'], { encoding: 'utf8' }).stdout?.match(/v=([\d.]+)/)?.[1];

/** The reason why a rival cannot be measured here, or undefined. */
function obstacle({ script, hub }) {
  const parts = [script, hub && `${hub}.js`];
  if (parts.includes('wsmsgbroker.js')) {
    const missing = missingAddon();
    if (missing) return missing;
  }
  if (parts.includes('nats.js') && !natsVersion()) return NO_NATS;
  if (parts.includes('redis.js') && !redisVersion()) {
    return 'there is no redis-server: apt-get install redis-server';
  }
  return undefined;
}

/** No rival may be missing: figures of a cluster mean little without a comparison. */
function choose(run) {
  const rivals = meant(RIVALS, run);
  for (const rival of rivals) {
    const reason = obstacle(rival);
    if (reason) throw new Error(`${rival.name} cannot be measured: ${reason}`);
  }
  return rivals;
}

const versions = () =>
  known({
    node: process.versions.node,
    wsmsgbroker: version('..'),
    nats: natsVersion(),
    'socket.io': version('node_modules', 'socket.io'),
    '@socket.io/redis-adapter': version('node_modules', '@socket.io/redis-adapter'),
    '@redis/client': version('node_modules', '@redis/client'),
    'redis-server': redisVersion(),
  });

module.exports = {
  file: 'cluster',
  measured: 'brokers, and the hub between them,',
  measures: [require('./flow'), require('./pairs200'), require('./request'), require('./fanout')],
  rivals: RIVALS,
  choose,
  versions,
  targets,
};
