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

/** A text as it is; what else a peer may send, as JavaScript writes it, if it can. */
function text(value) {
  try {
    return String(value);
  } catch {
    return typeof value;
  }
}

/** What became of a receiver, by the code that the server tells. */
const failure = (code, id) =>
  coded(text(code), `"${text(id)}": ${REASONS[text(code)] ?? text(code)}`);

/** The error with which a responder has refused, or that a server reports: any JSON. */
function remote(value, from) {
  const { code = 'ERR_WSMB_REJECTED', message = value } = Object(value);
  const error = coded(text(code), text(message));
  error.from = from;
  return error;
}

module.exports = { coded, aborted, failure, remote, text };
