'use strict';

// Checks the arguments of public methods, so that a mistake is an error at the call.

const { coded } = require('./errors');

/** An error about an argument. */
const wrong = (code, message, Type = TypeError) => coded(`ERR_WSMB_${code}`, message, Type);

/** The error of an unknown option, with the known one that is meant, if only its capitals differ. */
function unknownOption(name, known) {
  const meant = known.find((other) => other.toLowerCase() === name.toLowerCase());
  const advice = meant ? `: did you mean "${meant}"?` : '';
  return wrong('OPTION', `unknown option "${name}"${advice}`);
}

/** The least values of options that are numbers; of others it is 1. */
const LEAST = { waitFor: 0, highWaterMark: 0 };

/** Checks the options of a call: an object with some of these names, or undefined. Returns an object. */
function checkOptions(options, ...names) {
  if (options == null) {
    return {};
  }
  if (Object(options) !== options || Array.isArray(options)) {
    throw wrong('OPTION', `options are ${typeof options}, expected an object`);
  }
  for (const [name, value] of Object.entries(options)) {
    if (!names.includes(name)) {
      throw unknownOption(name, names);
    }
    const least = LEAST[name] ?? 1;
    if (value === undefined) {
      continue;
    }
    if (name === 'signal') {
      if (!value?.addEventListener) {
        throw wrong('OPTION', 'option "signal" must be an AbortSignal');
      }
    } else if (typeof value !== 'number' || !(value >= least)) {
      const Type = typeof value === 'number' ? RangeError : TypeError;
      throw wrong(
        'OPTION',
        `option "${name}" is ${String(value)}, expected at least ${least}`,
        Type,
      );
    }
  }
  return options;
}

module.exports = { wrong, unknownOption, checkOptions };
