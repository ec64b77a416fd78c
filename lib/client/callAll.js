'use strict';

/** Calls all functions, even if some throw: listeners of the program may. Then throws the first error; others follow. */
function callAll(functions) {
  const errors = [];
  for (const each of functions) {
    try {
      each();
    } catch (error) {
      errors.push(error);
    }
  }
  const [first, ...others] = errors;
  for (const error of others) {
    queueMicrotask(() => {
      throw error;
    });
  }
  if (errors.length > 0) {
    throw first;
  }
}

module.exports = callAll;
