'use strict';

const rivals = require('./rivals');

/** The rivals of this API among those of a run. Both variants of the original are chosen together. */
function choose(chosen, all = Object.keys(rivals)) {
  const names = new Set(chosen.map(({ name }) => name));
  return all.filter((name) => names.has(name) || names.has(name.replace('-uncompressed', '')));
}

/**
 * Calls `measure(rival)` `rounds` times for each rival. Rivals alternate, and each round starts with another
 * one.
 */
async function eachRound(names, rounds, measure) {
  const samples = [];
  for (let round = 0; round < rounds; round += 1) {
    for (let turn = 0; turn < names.length; turn += 1) {
      const rival = names[(round + turn) % names.length];
      samples.push({ rival, ...(await measure(rival)) });
      process.stderr.write('.');
    }
  }
  // Rounds alternate between rivals, tables list them one after the other.
  return samples.sort((a, b) => names.indexOf(a.rival) - names.indexOf(b.rival));
}

module.exports = { choose, eachRound };
