'use strict';

// Adds lines of the program to the stacks of errors that arise while nothing of it runs.

const AWAITING = /^ +at async /;

/** The stack of the caller of a function, as an object with the text. */
function stackOf(callee) {
  const holder = {};
  Error.captureStackTrace(holder, callee);
  return holder;
}

function append(error, lines) {
  // A stack with this file has the lines of the caller behind it.
  if (
    error instanceof Error &&
    typeof error.stack === 'string' &&
    !error.stack.includes(__filename)
  ) {
    error.stack = [error.stack, ...lines].join('\n');
  }
}

/** A method whose promise rejects with errors that name the functions which await it. */
function withAwaiting(method) {
  return async function awaited(...args) {
    try {
      return await method.apply(this, args);
    } catch (error) {
      // Behind an `await` the stack consists of those that wait for this function.
      const { stack } = stackOf(awaited);
      append(
        error,
        stack.split('\n').filter((line) => AWAITING.test(line)),
      );
      throw error;
    }
  };
}

/** Adds the place at which the object of an error was created. `creation`: of `stackOf`. */
function addCreation(error, what, creation) {
  append(error, [`${what} was created here:`, ...creation.stack.split('\n').slice(1)]);
}

module.exports = { stackOf, withAwaiting, addCreation };
