'use strict';

// Brokers that are one, while something breaks all the time. Ten minutes of it: `node soak/cluster.js`.

const test = require('ava');
const Ledger = require('../soak/cluster/ledger');
const play = require('../soak/cluster/play');

for (const seed of [1, 2]) {
  test.serial(
    `nothing comes twice or is lost untold, whatever breaks (seed ${seed})`,
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

test('a ledger tells of what came twice, out of order, unsent, untold, or lost though delivered', (t) => {
  const ledger = new Ledger();
  const sent = [0, 1, 2, 3].map(() => ledger.send('a', 'b'));
  ledger.got('b', { from: 'a', number: 1 });
  ledger.got('b', { from: 'a', number: 1 });
  ledger.got('b', { from: 'a', number: 0 });
  ledger.got('b', { from: 'a', number: 9 });
  sent[0].tell('UNKNOWN_ID');
  sent[1].tell('delivered');
  sent[1].tell('delivered');
  sent[2].tell('delivered');
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
      '1 came twice',
      '9 was never sent',
      '1 was told twice',
      '0 came behind 1',
      '0 was told UNKNOWN_ID, and arrived',
      '2 was told delivered, and is lost',
      '3 was told nothing',
    ],
  );
  const other = new Ledger();
  other.send('a', 'b').tell('delivered');
  other.ended('b');
  t.deepEqual(other.close(1000), { 'delivered, lost': 1 });
  t.deepEqual(other.faults, []);
});
