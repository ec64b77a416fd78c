'use strict';

// The page of what was measured, and what follows from it for a million ids.

const os = require('node:os');
const { MIB, integer, mib, origin, table } = require('../../testkit/report');
const { BYTES } = require('./ids');
const { DOWN_MS, SAMPLE } = require('./play');

const MILLION = 1e6;
/** A limit of open files that systems allow without more ado. */
const MANY_FILES = 1 << 20;
/** What a broker takes of the files that it may open: `maxConnections`. */
const SHARE = 0.8;
/** What NATS keeps for a client that does not read, unless it is told otherwise. */
const MAX_PENDING = 64 * MIB;

const REFUSED =
  'Other brokers may not listen for theirs again yet: for 2 s after NATS is back, a message that nobody takes is refused\n' +
  'with `CLUSTER_DOWN`, and its id is not called unknown.';

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const decimals = (number) => number.toFixed(2);

/** How many ids a broker can hold that may open so many files. */
const capacity = (files) => Math.floor(files * SHARE);

/** Bytes by which all brokers, or NATS, have grown for each id. */
const ofBrokers = ({ ids, empty, full }) => (sum(full.brokers) - sum(empty.brokers)) / ids;
const ofNats = ({ ids, empty, full }) => (full.nats - empty.nats) / ids;

/** What is not as it should be; each in a line. */
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
    check('times that something was lost', after.lagged, 0);
  }
  return wrong;
}

function times(cluster) {
  const head = ['ids', 'register all', 'all connected', 'all reached', 'all named', 'told in vain'];
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
    ['ids', 'resident, MiB', 'empty', 'with ids', 'after the restart', 'bytes an id'],
    rows.map(([ids, ...cells]) => [integer(ids), ...cells]),
  );
}

function work(cluster) {
  const head = ['ids', 'brokers together', 'the one that asks', 'nats-server'];
  const bytes = ['NATS is told, bytes an id', 'and tells'];
  return table(
    [...head, ...bytes],
    cluster.map(({ ids, work: seconds, traffic }) => [
      integer(ids),
      ...[seconds.holders, seconds.asker, seconds.nats].map(decimals),
      ...[traffic.heard, traffic.told].map((count) => integer(count / ids)),
    ]),
  );
}

/** A million ids, from the larger of what was measured. */
function paper({ cluster, alone }, files) {
  const one = cluster.at(-1);
  const [joined, single, nats] = [ofBrokers(one), ofBrokers(alone.at(-1)), ofNats(one)];
  const gib = (bytes) => (bytes / 2 ** 30).toFixed(1);
  const [empty] = one.empty.brokers;
  const heard = one.traffic.heard / one.ids;
  const hears = (one.work.asker / one.ids) * MILLION;
  const broker = (limit) => {
    const count = Math.max(2, Math.ceil(MILLION / capacity(limit)));
    const size = empty + (joined * MILLION) / count;
    return { count, size, told: heard * MILLION * count };
  };
  const [here, many] = [broker(files), broker(MANY_FILES)];
  const natsSize = one.empty.nats + nats * MILLION;
  const slots = integer(MANY_FILES);
  const pending = heard * MILLION;
  const pace = (seconds) => integer((seconds / one.ids) * MILLION);
  return [
    `Brokers: each takes ${SHARE * 100} % of the files it may open as connections. With ${integer(files)} files, as here,\n` +
      `that is ${integer(capacity(files))} ids: ${here.count} brokers of ${gib(here.size)} GiB each. With ${slots} files it is ${many.count}, of\n` +
      `${gib(many.size)} GiB each. All ids together take ${gib(joined * MILLION)} GiB at the brokers, of which ${gib(single * MILLION)} GiB are\n` +
      `those of brokers without \`nats\`; what the kernel keeps for sockets comes on top.`,
    `NATS: one server of ${gib(natsSize)} GiB holds all subscriptions. Servers that are one NATS cluster tell each other of\n` +
      `theirs, so that more of them do not make that less: three are for when one ends, not for memory. (That is not\n` +
      'measured here.)',
    `The restart: each broker hears the claims of all others, at most ${integer(heard)} bytes an id, which is\n` +
      `${integer(pending / MIB)} MiB for each of them. NATS tells ${gib(here.told)} GiB to ${here.count} brokers, ${gib(many.told)} GiB to ${many.count}:\n` +
      `${seconds10(here.told)} and ${seconds10(many.told)} seconds of 10 Gbit/s. To hear that takes a broker at most ${integer(hears)} seconds of a\n` +
      `processor, by what the one that asks took here. For a client that is behind, NATS keeps ${MAX_PENDING / MIB} MiB (\`max_pending\`)\n` +
      `before it cuts it off: ${pending > MAX_PENDING ? 'less than that; more would be safe' : 'more than that'}.`,
    `Time: at the pace of this machine, whose ${os.cpus().length} processors have all of this and the clients, all are registered after\n` +
      `${pace(one.register)} seconds, and reached ${pace(one.seconds.reached - one.seconds.connected)} seconds after the brokers are connected again.`,
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
    '# Many ids, and NATS that comes back',
    `How many ids can brokers that are one hold, what does each cost, and when are they reached again once NATS was\n` +
      `gone? ${ids} ids of ${BYTES} bytes are registered at ${brokers} brokers, each by a connection of its own. NATS is killed, and starts\n` +
      `again after ${DOWN_MS / 1000} s. How, and how to repeat it: [README.md](../README.md).`,
    origin(command, `nats-server ${nats}; ${integer(files)} files a process`),
    'Seconds: until all were registered; and since NATS listens again, until all brokers were connected, until all of\n' +
      `${integer(Math.min(SAMPLE, full.ids))} ids got a message from a client of another broker, and until all brokers had named all ids to that. All\n` +
      'processes share the processors. In vain: how often a message to a registered id was refused until then.',
    times(results.cluster),
    ...(isRefused ? [REFUSED] : []),
    'Resident memory of each broker and of NATS; the bytes are those by which all of them grew, by the number of ids. Without\n' +
      '`nats` there are as many brokers, and each is alone.',
    memory(results),
    'Does it grow in line? Bytes an id at both sizes:',
    table(
      ['', integer(half.ids), ids, 'more'],
      [
        model('at a broker', ofBrokers),
        model('of these, by the cluster', (one) => added[results.cluster.indexOf(one)]),
        model('at NATS', ofNats),
      ],
    ),
    'Seconds of a processor, from the end of NATS until all had come to rest again; and what went through it until all ids\n' +
      'were named: claims of ids, and the answers to who asked.',
    work(results.cluster),
    '## A million ids, on paper',
    paper(results, files),
    wrong.length === 0
      ? 'All as it should be: no connection was lost, and all ids were reached again.'
      : `What must not be:\n\n${wrong.map((what) => `- ${what}`).join('\n')}`,
  ].join('\n\n')}\n`;
}

module.exports = { capacity, judge, markdown };
