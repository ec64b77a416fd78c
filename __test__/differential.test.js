'use strict';

// Compares 2.0 with 1.7.2: every scenario is played on both, and the recordings must be equal. Where 2.0
// differs on purpose, the scenario names the difference and both recordings are checked against it.
//
// npm install --ignore-scripts --prefix __test__/original
// npx ava __test__/differential.test.js                         2.0 against 1.7.2
// WSMB_SUBJECT=original npx ava __test__/differential.test.js   1.7.2 against itself

const test = require('ava');
const differences = require('./differential/differences');
const { original, subject } = require('./differential/implementations');
const { play, SCENARIO_TIMEOUT_MS } = require('./differential/play');
const scenarios = require('./differential/scenarios');

// A client of 1.7.2 at a wrong path waits forever and keeps the process alive.
test.before(async () => {
  const { registerCompletionHandler } = await import('ava');
  registerCompletionHandler(() => process.exit());
});

for (const scenario of scenarios) {
  test.serial(scenario.title, async (t) => {
    t.timeout(3 * SCENARIO_TIMEOUT_MS);
    const past = await play(scenario, original);
    t.not(Object.keys(past).length, 0, 'the scenario records something');
    if (scenario.differs) t.deepEqual(past, scenario.expected.original, 'as recorded of 1.7.2');

    const present = await play(scenario, subject);
    if (!scenario.differs || subject === original) {
      t.deepEqual(present, past, '2.0 (actual) behaves as 1.7.2 (expected)');
      return;
    }
    t.deepEqual(present, scenario.expected.ours, `differs by ${scenario.differs}`);
    t.notDeepEqual(present, past, `shows ${scenario.differs}`);
  });
}

test('every scenario has a unique title', (t) => {
  const titles = scenarios.map(({ title }) => title);
  t.deepEqual(titles, [...new Set(titles)]);
});

test('every difference is shown by a scenario, and scenarios name no others', (t) => {
  const shown = new Set(scenarios.flatMap(({ differs }) => differs || []));
  t.deepEqual([...shown].sort(), Object.keys(differences).sort());
});
