'use strict';

// Clients that lose their broker at the same time all reconnect, each of them once. With a thousand: `node
// soak/herd.js`.

const test = require('ava');
const chart = require('../soak/herd/chart');
const play = require('../soak/herd/play');

const COUNT = 50;
const QUICK = { minDelay: 5, maxDelay: 20 };

for (const kind of ['native', 'browser']) {
  for (const [name, way] of Object.entries({
    'is killed': { down: 50 },
    'drains, with nothing to wait for': { drain: 500 },
    'drains, until a request has been given up': { drain: 500, isBusy: true },
  })) {
    test.serial(`${kind}: ${COUNT} clients reconnect to a broker that ${name}`, async (t) => {
      const played = await play({ kind, count: COUNT, reconnect: QUICK, way });
      t.is(played.lost.length, COUNT);
      t.is(played.back.length, COUNT);
      t.is(played.registered, COUNT);
      t.true(played.back[0] >= played.lost[0]);
    });
  }
}

test('a chart has a panel for each way, and an outline for each kind of client', (t) => {
  const lines = ['native', 'browser'].map((kind) => ({ kind, counts: [0, 5, 1] }));
  const panels = ['one', 'two'].map((title) => ({ title, lines, listening: 0.1 }));
  const svg = chart(panels, { native: 'a', browser: 'b' }, 100);
  t.is([...svg.matchAll(/<polygon/g)].length, 4);
  t.notRegex(svg, /NaN|undefined|Infinity/);
});
