'use strict';

// The frames that a client writes (rules 18 and 32 of spec/protocol.md). All arguments are JSON texts; a
// member that is undefined is left out, and where it may not be, the server complains.

const member = (name, text) => (text === undefined ? '' : `,"${name}":${text}`);

/** `more`: the members of version 2. */
const send = (message, dest, ack, more = '') =>
  `{"action":"send"${member('message', message)}${member('dest', dest)}${member('ack', ack)}${more}}`;

const answer = (ack, message, error, from) =>
  `{"action":"answer","ack":${ack}${member('message', message)}${member('error', error)}${member('from', from)}}`;

const register = (id, token, protocol) =>
  `{"action":"register"${member('id', id)}${member('token', token)}${protocol === 2 ? ',"protocol":2' : ''}}`;

const unregister = (id) => `{"action":"unregister"${member('id', id)}}`;

const cancel = (ack) => `{"action":"cancel","ack":${ack}}`;

module.exports = { member, send, answer, register, unregister, cancel };
