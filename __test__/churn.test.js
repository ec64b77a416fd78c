'use strict';

// All ids of a cluster are reachable again after an outage of NATS. With 40,000 ids: `node soak/churn.js`.

const test = require('ava');
const { play } = require('../soak/churn/play');
const { judge, markdown } = require('../soak/churn/report');

const IDS = 300;
const REST = 100;
// The test reads /proc.
const onLinux = process.platform === 'linux' ? test.serial : test.serial.skip;

onLinux(`${IDS} ids are reachable again after an outage of NATS`, async (t) => {
  const played = await play({ ids: IDS, brokers: 3, rest: REST });
  t.is(played.arrived, IDS);
  t.is(played.after.registered, IDS);
  const alone = await play({ ids: IDS, brokers: 3, isClustered: false, rest: REST });
  t.deepEqual(judge({ cluster: [played], alone: [alone] }), []);
});

/** A result with this many ids and this many bytes per id on both brokers together. */
function result(ids, bytes) {
  const state = (grown) => ({
    brokers: [grown, grown].map((share) => 2 ** 20 + (share * ids) / 2),
    nats: 2 ** 20 + (grown / 4) * ids,
    registered: ids,
    lagged: 0,
  });
  return {
    ids,
    brokers: 2,
    register: 1,
    empty: state(0),
    full: state(bytes),
    after: state(bytes),
    seconds: { connected: 1, reached: 2, named: 3 },
    failed: { UNKNOWN_ID: 4 },
    arrived: Math.min(ids, 1000),
    work: { holders: 2, asker: 1, nats: 1 },
    traffic: { heard: 50 * ids, told: 150 * ids },
  };
}

test('a report lists the cost of a million ids and every violation', (t) => {
  const results = {
    cluster: [result(1000, 8192), result(2000, 8192)],
    alone: [result(1000, 2048), result(2000, 2048)],
  };
  const page = markdown(results, { files: 20_000, nats: '2', command: 'a test' });
  t.notRegex(page, /NaN|undefined|Infinity/);
  t.regex(page, /\b63 brokers/);
  t.regex(page, /by the cluster \| 6,144 \| 6,144 \| 0 %/);
  t.regex(page, /All ids together take 7\.6 GiB at the brokers, of which 1\.9 GiB/);
  t.regex(page, /All as it should be/);

  results.cluster[1].arrived = 999;
  t.deepEqual(judge(results), ['messages that arrived: 999 of 1000']);
  const broken = markdown(results, { files: 20_000, nats: '2', command: 'a test' });
  t.regex(broken, /- messages that arrived: 999 of 1000/);
});
