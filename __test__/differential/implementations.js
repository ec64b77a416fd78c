'use strict';

// The two implementations: 1.7.2 and the subject. The subject is this package by default.
// WSMB_SUBJECT=original makes it 1.7.2 as well, which tests the comparison itself, as nothing may differ
// then. Any other value is a module path.

const path = require('node:path');
const { directory } = require('../original');

const root = path.join(__dirname, '..', '..');

function implementation(name, main, command) {
  return {
    name,
    main,
    command,
    get WSMsgBroker() {
      return require(main);
    },
  };
}

const original = implementation(
  '1.7.2',
  directory,
  path.join(directory, 'bin', 'wsbrokerserver.js'),
);

function subject(wanted = process.env.WSMB_SUBJECT) {
  if (wanted === 'original') return original;
  const home = wanted ? path.resolve(wanted) : root;
  return implementation('2.0', home, path.join(home, 'bin', 'wsbrokerserver.js'));
}

module.exports = { original, subject: subject() };
