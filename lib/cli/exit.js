'use strict';

// The exit codes of the command line, and the error of wrong usage.

const SUCCESS = 0;
const FAILURE = 1;
const USAGE = 2;

/** An error of the command line itself. */
class UsageError extends Error {}

module.exports = { SUCCESS, FAILURE, USAGE, UsageError };
