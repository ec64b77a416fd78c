'use strict';

// An upgrade request that Node.js has read: its path, its bytes, and answers that refuse it.

const { encodePath } = require('../path');

// Captured here, because fake timers of a test framework replace it later.
const { setTimeout } = require('node:timers');

/** Time for a refused peer to read the answer and close, in milliseconds. */
const LINGER = 1000;

const REASONS = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
};

/** The path of a request, without the query, with the escapes of a client. The target may be a whole URL. */
function pathOf({ url }) {
  const [target] = Buffer.from(url, 'latin1').toString().split('?');
  const [, path = '/'] = /^[a-z][a-z0-9+.-]*:\/\/[^/]*(\/.*)?$/is.exec(target) ?? [null, target];
  return encodePath(path);
}

/** True for a request to upgrade to a WebSocket, and not to something else such as `h2c`. */
function isWebSocket({ headers }) {
  return (headers.upgrade ?? '').split(',').some((name) => /^\s*websocket\s*$/i.test(name));
}

/** True for a request with a body, whose bytes could be taken for frames. */
function hasBody({ headers }) {
  return (headers['content-length'] ?? '0') !== '0' || headers['transfer-encoding'] !== undefined;
}

/** Number of headers that Node.js keeps at most, unless `maxHeadersCount` of the HTTP server sets another one. */
const MAX_HEADERS = 1000;

/** True if Node.js may have left out headers, perhaps one that announces a body. */
function isCut({ rawHeaders }, socket) {
  const limit = socket.server?.maxHeadersCount ?? MAX_HEADERS;
  return limit > 0 && rawHeaders.length >= 2 * limit;
}

/** True if an answer before this request is not written yet: what is written now would be part of it. */
const isAnswering = (socket) => Boolean(socket._httpMessage) || socket.writableLength > 0;

/** The head of a request as it came. `change(name, value)` returns another value of a header, or undefined: none. */
function headOf({ method, url, httpVersion, rawHeaders }, change = (_, value) => value) {
  const lines = [`${method} ${url} HTTP/${httpVersion}`];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const [name, value] = rawHeaders.slice(index, index + 2);
    const changed = change(name.toLowerCase(), value);
    if (changed !== undefined) {
      lines.push(`${name}: ${changed}`);
    }
  }
  // No part may look like several lines.
  if (lines.some((line) => /[\r\n\0]/.test(line))) {
    return undefined;
  }
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
}

const ignore = () => {};

/** Keeps errors of a socket, which its peer causes, from ending the process: the HTTP server listens no more. */
function ignoreErrors(socket) {
  if (!socket.listeners('error').includes(ignore)) {
    socket.on('error', ignore);
  }
}

/** Answers a request with this status, and closes its socket. */
function refuse(socket, status) {
  const reason = REASONS[status];
  const retry = status === 503 ? 'Retry-After: 5\r\n' : '';
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\nConnection: close\r\nContent-Type: text/plain\r\n` +
      `Content-Length: ${reason.length}\r\n${retry}\r\n${reason}`,
  );
  // Unread bytes would reset the connection before the peer has read the answer.
  socket.resume();
  setTimeout(() => socket.destroy(), LINGER).unref();
}

module.exports = { pathOf, isWebSocket, hasBody, isCut, isAnswering, headOf, ignoreErrors, refuse };
