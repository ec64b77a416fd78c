'use strict';

// The report of the measurement, with an extrapolation to a million ids.

const os = require('node:os');
const { MIB, integer, mib, origin, table } = require('../../testkit/report');
const { BYTES } = require('./ids');
const { DOWN_MS, SAMPLE } = require('./play');

const MILLION = 1e6;
/** A limit of open files that systems allow without further configuration. */
const MANY_FILES = 1 << 20;
/** The share of its open files that a broker uses for connections: `maxConnections`. */
const SHARE = 0.8;
/** The default of `max_pending`: what NATS queues for a client that does not read. */
const MAX_PENDING = 64 * MIB;

const REFUSED =
  'Owners may not have subscribed again yet: for 2 s after NATS is reachable again, a message without a subscriber fails\n' +
  'with `CLUSTER_DOWN` instead of `UNKNOWN_ID`.';

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const decimals = (number) => number.toFixed(2);

/** How many ids a broker can hold with this limit of open files. */
const capacity = (files) => Math.floor(files * SHARE);

/** Bytes per id by which all brokers, or NATS, have grown. */
const ofBrokers = ({ ids, empty, full }) => (sum(full.brokers) - sum(empty.brokers)) / ids;
const ofNats = ({ ids, empty, full }) => (full.nats - empty.nats) / ids;

/** Violations, one line each. */
function judge({ cluster, alone }) {
  const wrong = [];
  const check = (what, value, right) => {
    if (value !== right) wrong.push(`${what}: ${value} of ${right}`);
  };
  for (const { ids, full, after, arrived } of [...cluster, ...alone]) {
    check('registered', full.registered, ids);
    if (!after) continue;
    check('registered after the restart', after.registered, ids);
    check('messages that arrived', arrived, Math.min(ids, SAMPLE));
    check('losses of slow NATS subscriptions', after.lagged, 0);
  }
  return wrong;
}

function times(cluster) {
  const head = ['ids', 'register all', 'all connected', 'all reachable', 'all listed', 'failures'];
  return table(
    head,
    cluster.map(({ ids, register, seconds, failed }) => {
      const vain = Object.entries(failed).map(([code, count]) => `${code}: ${count}`);
      return [
        integer(ids),
        ...[register, seconds.connected, seconds.reached, seconds.named].map(decimals),
        vain.join(', ') || 'nothing',
      ];
    }),
  );
}

function memory({ cluster, alone }) {
  const each = (state) => (state ? state.brokers.map(mib).join(', ') : '');
  const rows = cluster.flatMap((one, n) => [
    [one.ids, 'brokers', each(one.empty), each(one.full), each(one.after), integer(ofBrokers(one))],
    [
      one.ids,
      'nats-server',
      ...[one.empty, one.full, one.after].map(({ nats }) => mib(nats)),
      integer(ofNats(one)),
    ],
    [
      one.ids,
      'brokers without `nats`',
      each(alone[n].empty),
      each(alone[n].full),
      '',
      integer(ofBrokers(alone[n])),
    ],
  ]);
  return table(
    ['ids', 'resident, MiB', 'empty', 'with ids', 'after the restart', 'bytes per id'],
    rows.map(([ids, ...cells]) => [integer(ids), ...cells]),
  );
}

function work(cluster) {
  const head = ['ids', 'brokers together', 'asking broker', 'nats-server'];
  const bytes = ['to NATS, bytes per id', 'from NATS'];
  return table(
    [...head, ...bytes],
    cluster.map(({ ids, work: seconds, traffic }) => [
      integer(ids),
      ...[seconds.holders, seconds.asker, seconds.nats].map(decimals),
      ...[traffic.heard, traffic.told].map((count) => integer(count / ids)),
    ]),
  );
}

/** The extrapolation to a million ids from the larger measurement. */
function paper({ cluster, alone }, files) {
  const one = cluster.at(-1);
  const [joined, single, nats] = [ofBrokers(one), ofBrokers(alone.at(-1)), ofNats(one)];
  const gib = (bytes) => (bytes / 2 ** 30).toFixed(1);
  const [empty] = one.empty.brokers;
  const heard = one.traffic.heard / one.ids;
  const processor = (one.work.asker / one.ids) * MILLION;
  const broker = (limit) => {
    const count = Math.max(2, Math.ceil(MILLION / capacity(limit)));
    const size = empty + (joined * MILLION) / count;
    return { count, size, sent: heard * MILLION * count };
  };
  const [here, many] = [broker(files), broker(MANY_FILES)];
  const natsSize = one.empty.nats + nats * MILLION;
  const slots = integer(MANY_FILES);
  const pending = heard * MILLION;
  const pace = (seconds) => integer((seconds / one.ids) * MILLION);
  return [
    `Brokers: each uses ${SHARE * 100} % of its limit of open files for connections. With ${integer(files)} files, as here,\n` +
      `that is ${integer(capacity(files))} ids: ${here.count} brokers of ${gib(here.size)} GiB each. With ${slots} files it is ${many.count}, of\n` +
      `${gib(many.size)} GiB each. All ids together take ${gib(joined * MILLION)} GiB at the brokers, of which ${gib(single * MILLION)} GiB\n` +
      'are not caused by the cluster. Memory of the kernel for sockets is not included.',
    `NATS: one server of ${gib(natsSize)} GiB holds all subscriptions. Each server of a NATS cluster knows the\n` +
      'subscriptions of all, so more servers do not reduce memory: three are for availability. (Not measured here.)',
    `The restart: each broker receives the claims of all others, at most ${integer(heard)} bytes per id, which is\n` +
      `${integer(pending / MIB)} MiB per broker. NATS sends ${gib(here.sent)} GiB to ${here.count} brokers, ${gib(many.sent)} GiB to ${many.count}:\n` +
      `${seconds10(here.sent)} and ${seconds10(many.sent)} seconds of 10 Gbit/s. Receiving that takes a broker at most ${integer(processor)} seconds of\n` +
      `processor time, as measured on the asking broker. NATS queues at most ${MAX_PENDING / MIB} MiB (\`max_pending\`) for a slow client\n` +
      `before it disconnects it: ${pending > MAX_PENDING ? 'less than that; increase it' : 'more than that'}.`,
    `Time: at the rate of this machine, whose ${os.cpus().length} processors run all brokers and clients, all ids are registered after\n` +
      `${pace(one.register)} seconds, and reachable ${pace(one.seconds.reached - one.seconds.connected)} seconds after the brokers are connected again.`,
  ].join('\n\n');
}

const seconds10 = (bytes) => ((bytes * 8) / 10e9).toFixed(1);

function markdown(results, { files, nats, command }) {
  const [half, full] = results.cluster;
  const [brokers, ids] = [full.brokers, integer(full.ids)];
  const added = results.cluster.map((one, n) => ofBrokers(one) - ofBrokers(results.alone[n]));
  const model = (what, of) => {
    const [small, large] = results.cluster.map(of);
    return [what, ...[small, large].map(integer), `${Math.round((large / small - 1) * 100)} %`];
  };
  const wrong = judge(results);
  const isRefused = results.cluster.some(({ failed }) => failed.UNKNOWN_ID > 0);
  return `${[
    '# Many ids during an outage of NATS',
    `How many ids can a cluster hold, what does each cost, and when are they reachable again after an outage of NATS?\n` +
      `${ids} ids of ${BYTES} bytes are registered on ${brokers} brokers, each by a connection of its own. NATS is killed and restarted\n` +
      `after ${DOWN_MS / 1000} s. Method and repetition: [README.md](../README.md).`,
    origin(command, `nats-server ${nats}; ${integer(files)} files per process`),
    'Seconds until all ids were registered. Then seconds from the restart of NATS until all brokers were connected, until\n' +
      `${integer(Math.min(SAMPLE, full.ids))} ids had received a message from a client of another broker, and until all brokers had listed all ids to\n` +
      'that broker. All processes share the processors. Failures: messages to registered ids that failed meanwhile.',
    times(results.cluster),
    ...(isRefused ? [REFUSED] : []),
    'Resident memory of each broker and of NATS. Bytes per id: the growth of all of them, divided by the number of ids.\n' +
      'Without `nats` the same number of brokers runs independently.',
    memory(results),
    'Is the growth linear? Bytes per id at both sizes:',
    table(
      ['', integer(half.ids), ids, 'more'],
      [
        model('at a broker', ofBrokers),
        model('of these, by the cluster', (one) => added[results.cluster.indexOf(one)]),
        model('at NATS', ofNats),
      ],
    ),
    'Seconds of processor time from the end of NATS until all processes were at rest again. Traffic of NATS until all ids\n' +
      'were listed: claims of ids, and lists of ids.',
    work(results.cluster),
    '## Extrapolation to a million ids',
    paper(results, files),
    wrong.length === 0
      ? 'All as it should be: no connection was lost, and all ids were reachable again.'
      : `Violations:\n\n${wrong.map((what) => `- ${what}`).join('\n')}`,
  ].join('\n\n')}\n`;
}

module.exports = { capacity, judge, markdown };
