'use strict';

// Which counts of instructions pass: the benchmarks themselves need Valgrind, this does not.

const test = require('ava');
const { compare, parse } = require('../scripts/instructions');

const verdicts = (counts, baseline) =>
  Object.fromEntries(compare(counts, baseline).map(({ name, verdict }) => [name, verdict]));

test('a count may be three in a hundred more or less than its baseline', (t) => {
  const baseline = { least: 1000, most: 1000, less: 1000, more: 1000 };
  const counts = { least: 970, most: 1030, less: 969, more: 1031 };
  const expected = { least: 'same', most: 'same', less: 'less', more: 'more' };
  t.deepEqual(verdicts(counts, baseline), expected);
});

test('a benchmark without a baseline, or the other way round, is told', (t) => {
  t.deepEqual(verdicts({ both: 1, young: 1 }, { both: 1, old: 1 }), {
    both: 'same',
    young: 'new',
    old: 'gone',
  });
});

test('counts are read from the lines of JSON among what the runner prints', (t) => {
  const line = (id, count) =>
    JSON.stringify({
      function_name: 'decode',
      id,
      profiles: [{ data: { total: { metrics: { Ir: { values: { new: count } } } } } }],
    });
  const output = ['Gungraun', line('send_100', 7), line('answer', 8), ''].join('\n');
  t.deepEqual(parse(output), { 'decode/send_100': 7, 'decode/answer': 8 });
});
