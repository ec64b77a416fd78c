'use strict';

// Requests that were answered, timed out or were aborted leave nothing behind. With a million of each kind of
// client: `node soak/requests.js`.

const test = require('ava');
const { judge, measure } = require('../soak/requests/measure');

const COUNT = 10_000;
const TIMEOUT_MS = 90_000;

// The test reads /proc.
const linux = process.platform === 'linux' ? test.serial : test.skip;

for (const kind of ['native', 'browser']) {
  linux(`${kind}: ${COUNT} requests leave nothing behind`, async (t) => {
    t.timeout(TIMEOUT_MS);
    t.deepEqual(judge(await measure(kind, { count: COUNT, parts: 2 })), []);
  });
}

test('the measurement detects a leak', (t) => {
  const clients = { requests: 0, cancels: 0, waiting: 0, heap: 4e6, resident: 60e6 };
  const server = { heap: 4e6, resident: 50e6, pending: 0, memory: 8224, connections: 2 };
  const ends = { answered: 3400, TIMEOUT: 3300, ABORT_ERR: 3300 };
  const judged = (more, of = {}) => {
    const after = {
      clients: { ...clients, ...more.clients },
      server: { ...server, ...more.server },
    };
    return judge({ count: COUNT, ends, samples: [{ clients, server }, after], ...of }).length;
  };
  t.is(judged({}), 0);
  for (const name of ['requests', 'cancels', 'waiting'])
    t.is(judged({ clients: { [name]: 1 } }), 1);
  for (const name of ['pending', 'memory', 'connections'])
    t.is(judged({ server: { [name]: 1e6 } }), 1);
  for (const side of ['clients', 'server']) {
    t.is(judged({ [side]: { heap: 5e6 } }), 1);
    t.is(judged({ [side]: { resident: 100e6 } }), 1);
  }
  t.is(judged({}, { ends: { ...ends, TIMEOUT: 3299, GONE: 1 } }), 1);
});
