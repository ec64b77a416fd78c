'use strict';

const rivals = require('./rivals');

/** Those of ours that are among the rivals of a run; both versions of the original go together. */
function choose(chosen, all = Object.keys(rivals)) {
  const names = new Set(chosen.map(({ name }) => name));
  return all.filter((name) => names.has(name) || names.has(name.replace('-uncompressed', '')));
}

/** Calls `measure(rival)` so many times for each, by turns, another one first in each round. */
async function eachRound(names, rounds, measure) {
  const samples = [];
  for (let round = 0; round < rounds; round += 1) {
    for (let turn = 0; turn < names.length; turn += 1) {
      const rival = names[(round + turn) % names.length];
      samples.push({ rival, ...(await measure(rival)) });
      process.stderr.write('.');
    }
  }
  // Rounds alternate, tables do not.
  return samples.sort((a, b) => names.indexOf(a.rival) - names.indexOf(b.rival));
}

module.exports = { choose, eachRound };
