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

/** Checks the options of a call: an object with some of these names, or undefined. Returns an object. */
function checkOptions(options, ...names) {
  if (options == null) {
    return {};
  }
  if (typeof options !== 'object') {
    throw wrong('OPTION', 'options must be an object');
  }
  for (const [name, value] of Object.entries(options)) {
    if (!names.includes(name)) {
      throw unknownOption(name, names);
    }
    const least = ['waitFor', 'retry', 'after', 'before'].includes(name) ? 0 : 1;
    const type = typeof value;
    if (['slow', 'group', 'info', 'token', 'since', 'key'].includes(name)) {
      // The call itself checks them.
    } else if (name === 'signal') {
      if (value && !value.addEventListener) {
        throw wrong('OPTION', 'signal must be an AbortSignal');
      }
    } else if (value !== undefined && !(type === 'number' && value >= least)) {
      const found = type === 'number' ? value : type;
      throw wrong('OPTION', `option "${name}" is ${found}, expected at least ${least}`);
    }
  }
  return options;
}

module.exports = { wrong, unknownOption, checkOptions };
