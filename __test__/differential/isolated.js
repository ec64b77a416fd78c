'use strict';

// The process in which play.js plays one isolated scenario: node isolated.js <title>.

const implementations = require('./implementations');
const { playHere } = require('./play');
const scenarios = require('./scenarios');

const scenario = scenarios.find(({ title }) => title === process.argv[2]);
const original = process.env.WSMB_PLAY === implementations.original.name;
const implementation = original ? implementations.original : implementations.subject;

function reply(answer) {
  process.send(answer, () => process.exit());
}

playHere(scenario, implementation).then(
  (recording) => reply({ recording }),
  (error) => reply({ error: error.message }),
);
