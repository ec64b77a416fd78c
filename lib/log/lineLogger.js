'use strict';

// A logger that writes each event as one line: JSON, or a text for people.

const { printable, printableJson } = require('../printable');
const { LEVELS } = require('./events');

/** Texts that need no quotes in a line of text. Without a space and a quote they cannot look like another member. */
const PLAIN = /^[\w.:/@-]+$/;

function textOf(value) {
  return typeof value === 'string' && PLAIN.test(value) ? value : printableJson(value);
}

/** `warn  slow: slow consumer id=a reason=closed` */
function toText(level, { event, ...members }, message) {
  const pairs = Object.entries(members).map(([name, value]) => ` ${name}=${textOf(value)}`);
  return `${level.padEnd(5)} ${event}: ${printable(message)}${pairs.join('')}`;
}

const FORMATS = {
  __proto__: null,
  text: (...line) => `${new Date().toISOString()} ${toText(...line)}`,
  json: (level, { event, ...members }, message) =>
    printableJson({ time: new Date().toISOString(), level, event, message, ...members }),
  /** Text without the time. */
  bare: toText,
};

/** A logger that calls `write` with each line. `level`: the lowest level that it prints, or `off`. */
function createLineLogger(format, level, write) {
  const methods = LEVELS.map((each) => [
    each,
    (members, message) => write(FORMATS[format](each, members, message)),
  ]);
  return { level, ...Object.fromEntries(methods) };
}

module.exports = createLineLogger;
