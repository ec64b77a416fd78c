'use strict';

// Makes the errors of clients and servers that only Node.js has.

const os = require('node:os');
const util = require('node:util');
const { coded } = require('./client/errors');

/** An error of the operating system, with the text and members of Node's own errors. `advice`: a text at its end. */
function systemError(code, syscall, address, port, advice = '') {
  const where = port === undefined ? address : `${address}:${port}`;
  const errno = os.constants.errno[code];
  const known = errno === undefined ? undefined : util.getSystemErrorMap().get(-errno);
  // Node adds the reason only to the errors of `listen`.
  const reason = syscall === 'listen' && known ? `: ${known[1]}` : '';
  const error = coded(code, `${syscall} ${code}${reason} ${where}${advice}`);
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

/** An error thrown by the addon. For an invalid option it becomes a RangeError. */
function nativeError(error) {
  return error.code === 'ERR_WSMB_OPTION' ? coded(error.code, error.message, RangeError) : error;
}

module.exports = { coded, systemError, nativeError };
