'use strict';

// Makes the errors of a client, each with a stable code.

/** An error with a stable code. */
function coded(code, message, Type = Error) {
  const error = new Type(message);
  error.code = code;
  return error;
}

/** The error of a time that is over, in milliseconds. `name`: of the option. */
const exceeded = (code, name, limit) => coded(code, `${name} of ${limit} ms exceeded`);

/** The error of an operation that an AbortSignal has ended, as Node.js makes it. */
function aborted({ reason }) {
  const error = coded('ABORT_ERR', 'aborted');
  error.name = 'AbortError';
  error.cause = reason;
  return error;
}

/** Explanations of the codes with which a broker reports that a receiver will not answer. */
const REASONS = {
  __proto__: null,
  UNKNOWN_ID: 'id not registered',
  NO_SUBSCRIBER: 'no subscriber',
  BUSY: 'too many messages wait',
  GONE: 'disconnected',
  REPLACED: 'id taken over',
  SLOW: 'too slow',
  TIMEOUT: 'no answer',
  CLUSTER_DOWN: 'cluster unreachable',
  FULL: 'mailbox full',
  NOT_STORED: 'not stored',
};

/** A value as text. An object is not converted: it may have its own `toString`, or any depth. */
const text = (value) => (Object(value) === value ? typeof value : String(value));

/** The error of a receiver that will not answer: an id, or `{ topic }`. `code` comes from the broker. */
const failure = (code, id) =>
  coded(
    code,
    `${id.topic ? 'topic ' : ''}${JSON.stringify(id.topic ?? id)}: ${REASONS[code] ?? code}`,
  );

/** The error with which a responder has rejected a request, or that a broker reports: any JSON value. */
function remote(value, from) {
  const { code = 'ERR_WSMB_REJECTED', message = value } = Object(value);
  const error = coded(text(code), text(message));
  error.from = from;
  return error;
}

module.exports = { coded, exceeded, aborted, failure, remote };
