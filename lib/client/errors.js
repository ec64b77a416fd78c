'use strict';

/** An error with a stable code. */
function coded(code, message, Type = Error) {
  const error = new Type(message);
  error.code = code;
  return error;
}

/** What an operation fails with that a signal has ended, as Node's own do. */
function aborted({ reason }) {
  const error = coded('ABORT_ERR', 'aborted');
  error.name = 'AbortError';
  error.cause = reason;
  return error;
}

/** Why nobody will answer, in words. */
const REASONS = {
  __proto__: null,
  UNKNOWN_ID: 'nobody has registered this id',
  GONE: 'it has left',
  REPLACED: 'its id was taken over',
  SLOW: 'slow',
  TIMEOUT: 'no answer',
};

/** A value as text. An object is not converted: its own members may say how, and it may be of any depth. */
const text = (value) => (Object(value) === value ? typeof value : String(value));

/** Why a receiver will not answer, by the code of the server; both are strings. */
const failure = (code, id) => coded(code, `${JSON.stringify(id)}: ${REASONS[code] ?? code}`);

/** The error with which a responder has refused, or that a server reports: any JSON. */
function remote(value, from) {
  const { code = 'ERR_WSMB_REJECTED', message = value } = Object(value);
  const error = coded(text(code), text(message));
  error.from = from;
  return error;
}

module.exports = { coded, aborted, failure, remote };
