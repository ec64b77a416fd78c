'use strict';

// A cluster under continuous failures. Ten minutes of it: `node soak/cluster.js`.

const test = require('ava');
const Ledger = require('../soak/cluster/ledger');
const play = require('../soak/cluster/play');

for (const seed of [1, 2]) {
  test.serial(
    `no message is duplicated or lost without a receipt, whatever fails (seed ${seed})`,
    async (t) => {
      t.timeout(180_000);
      const { counts, arrived, happened, faults } = await play({ ms: 15_000, every: 1000, seed });
      t.deepEqual(faults, []);
      t.true(counts['delivered, arrived'] > 1000);
      t.true(arrived > 1000);
      t.true(Object.keys(happened).length > 3);
    },
  );
}

test('a ledger reports duplicates, reordering, unsent messages, missing receipts, and lost messages with a receipt', (t) => {
  const ledger = new Ledger();
  const sent = [0, 1, 2, 3].map(() => ledger.send('a', 'b'));
  ledger.got('b', { from: 'a', number: 1 });
  ledger.got('b', { from: 'a', number: 1 });
  ledger.got('b', { from: 'a', number: 0 });
  ledger.got('b', { from: 'a', number: 9 });
  sent[0].settle('UNKNOWN_ID');
  sent[1].settle('delivered');
  sent[1].settle('delivered');
  sent[2].settle('delivered');
  const counts = ledger.close(1000);
  t.deepEqual(counts, {
    'UNKNOWN_ID, arrived': 1,
    'delivered, arrived': 1,
    'delivered, lost': 1,
    'nothing, lost': 1,
  });
  t.deepEqual(
    ledger.faults.map((fault) => fault.replace(/^a to b: /, '')),
    [
      '1 arrived twice',
      '9 was never sent',
      '1 has two receipts',
      '0 arrived after 1',
      '0 has the receipt UNKNOWN_ID, but arrived',
      '2 has the receipt delivered, but is lost',
      '3 has no receipt',
    ],
  );
  const other = new Ledger();
  other.send('a', 'b').settle('delivered');
  other.ended('b');
  t.deepEqual(other.close(1000), { 'delivered, lost': 1 });
  t.deepEqual(other.faults, []);
});
