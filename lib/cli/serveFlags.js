'use strict';

// The flags of `serve` and `wsbrokerserver` that are no options of a server: the times of a stop, and the log.

const { VALUES, oneOf, readFlag } = require('../flags');
const { LEVELS } = require('../log/events');
const { checkClose } = require('../options');

const FORMATS = ['text', 'json'];

/** Reads the values of flags. Returns the times for `close`, the log if one is wanted, and the other flags. */
function readServeFlags({ drain, 'drain-delay': delay, log, 'log-level': level, ...flags }) {
  const time = (name, text) =>
    text === undefined ? undefined : readFlag(name, VALUES.number[1], text);
  const closing = { drain: time('drain', drain), delay: time('drain-delay', delay) };
  checkClose(closing);
  const hasLog = log !== undefined || level !== undefined;
  const logging = hasLog && {
    format: readFlag('log', oneOf(FORMATS), log ?? 'text'),
    level: readFlag('log-level', oneOf([...LEVELS, 'off']), level ?? 'info'),
  };
  return { closing, logging, flags };
}

module.exports = { FORMATS, readServeFlags };
