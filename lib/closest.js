'use strict';

// Finds the word that a misspelled one is meant to be.

/** Edits (inserted, removed or replaced characters) between two words. */
function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, n) => n);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return row[b.length];
}

/** The known word that differs least from this one, whatever the case; undefined if all differ by more than a third. */
function closest(word, known) {
  const lower = word.toLowerCase();
  const ranked = known.map((other) => [distance(lower, other.toLowerCase()), other]);
  const [best] = ranked.sort(([a], [b]) => a - b);
  return best !== undefined && best[0] <= Math.floor(word.length / 3) ? best[1] : undefined;
}

module.exports = closest;
