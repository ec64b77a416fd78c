'use strict';

// Writes the frames that a client sends (rules 18 and 32 of spec/protocol.md). All arguments are JSON texts. A
// member that is undefined is left out; if the broker requires it, the broker reports an error.

const member = (name, text) => (text === undefined ? '' : `,"${name}":${text}`);

/** `more`: further members, of version 2. */
const send = (message, dest, ack, more = '') =>
  `{"action":"send"${member('message', message)}${member('dest', dest)}${member('ack', ack)}${more}}`;

const answer = (ack, message, error, from) =>
  `{"action":"answer","ack":${ack}${member('message', message)}${member('error', error)}${member('from', from)}}`;

const register = (id, token, offersVersion2, session) =>
  `{"action":"register"${member('id', id)}${member('token', token)}${member('session', session)}${offersVersion2 ? ',"protocol":2' : ''}}`;

const received = (count) => `{"action":"received","count":${count}}`;

const unregister = (id) => `{"action":"unregister"${member('id', id)}}`;

/** `more`: further members. */
const subscription = (action, topic, ref, group, more = '') =>
  `{"action":"${action}","topic":${topic}${member('ref', ref)}${member('group', group)}${more}}`;

/** An action about a mailbox. `name` is a value. */
const mailbox = (action, name, ref, more = '') =>
  `{"action":"${action}","mailbox":${JSON.stringify(name)}${member('ref', ref)}${more}}`;

/** `topic` and `ids` are values: one of them is undefined. */
const watch = (action, topic, ids, ref) =>
  `{"action":"${action}"${member('topic', JSON.stringify(topic))}${member('ids', JSON.stringify(ids))},"ref":${ref}}`;

const cancel = (ack) => `{"action":"cancel","ack":${ack}}`;

module.exports = {
  member,
  send,
  answer,
  register,
  unregister,
  subscription,
  mailbox,
  watch,
  cancel,
  received,
};
