'use strict';

const os = require('node:os');
const util = require('node:util');
const { coded } = require('./client/errors');

/** An error of the system, as Node itself would make it. */
function systemError(code, syscall, address, port) {
  const where = port === undefined ? address : `${address}:${port}`;
  const errno = os.constants.errno[code];
  const known = errno === undefined ? undefined : util.getSystemErrorMap().get(-errno);
  // Node names the reason for what failed when listening only.
  const reason = syscall === 'listen' && known ? `: ${known[1]}` : '';
  const error = coded(code, `${syscall} ${code}${reason} ${where}`);
  error.syscall = syscall;
  if (errno !== undefined) {
    error.errno = -errno;
  }
  if (syscall === 'getaddrinfo') {
    error.hostname = address;
  } else {
    error.address = address;
    if (port !== undefined) {
      error.port = port;
    }
  }
  return error;
}

/** What the addon threw: a refused option is a RangeError, as in Node. */
function nativeError(error) {
  return error.code === 'ERR_WSMB_OPTION' ? coded(error.code, error.message, RangeError) : error;
}

module.exports = { coded, systemError, nativeError };
