'use strict';

// Judgement of instruction counts. The benchmarks themselves need Valgrind, this test does not.

const test = require('ava');
const { compare, parse } = require('../scripts/instructions');

const verdicts = (counts, baseline) =>
  Object.fromEntries(compare(counts, baseline).map(({ name, verdict }) => [name, verdict]));

test('a count may differ from its baseline by three percent', (t) => {
  const baseline = { least: 1000, most: 1000, less: 1000, more: 1000 };
  const counts = { least: 970, most: 1030, less: 969, more: 1031 };
  const expected = { least: 'same', most: 'same', less: 'less', more: 'more' };
  t.deepEqual(verdicts(counts, baseline), expected);
});

test('a benchmark without a baseline, and a baseline without a benchmark, are reported', (t) => {
  t.deepEqual(verdicts({ both: 1, young: 1 }, { both: 1, old: 1 }), {
    both: 'same',
    young: 'new',
    old: 'gone',
  });
});

test('counts are read from the JSON lines in the output of the runner', (t) => {
  const line = (id, count) =>
    JSON.stringify({
      function_name: 'decode',
      id,
      profiles: [{ data: { total: { metrics: { Ir: { values: { new: count } } } } } }],
    });
  const output = ['Gungraun', line('send_100', 7), line('answer', 8), ''].join('\n');
  t.deepEqual(parse(output), { 'decode/send_100': 7, 'decode/answer': 8 });
});
