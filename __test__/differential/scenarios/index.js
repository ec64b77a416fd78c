'use strict';

// All scenarios, each `{ title, play(stage) }`. A scenario with an intended difference also has `differs`
// (names of differences.js) and `expected` ({ original, ours }: both recordings in full).

const fs = require('node:fs');

const subjects = fs
  .readdirSync(__dirname)
  .filter((name) => name.endsWith('.js') && name !== 'index.js');

module.exports = subjects.sort().flatMap((name) => require(`./${name}`));
