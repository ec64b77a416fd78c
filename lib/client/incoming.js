'use strict';

// Checks the frames of a broker. The members of each action and their types are listed here; no value of a frame
// is used or converted before this check.

/**
 * Actions of version 1 and their members, in the order of the arguments of the method that handles the action. The
 * letters behind a colon are the kinds of value that a member may have; a member without them may have any.
 */
const MEMBERS = parse({
  registered: 'protocol session:mou',
  // The program receives `id` unchanged, whatever its type.
  unregistered: 'id code:su',
  // An id may be a number: brokers of version 1 send it as it was registered. `text` is the JSON text of the ack.
  message:
    'from:snu message text:su ack size topic:su group:su attempt:nu offset:nu mailbox:su key:su',
  answer: 'ack from:snu message error',
});

/** Actions of version 2 and their members. */
const MEMBERS_2 = parse({
  receipt:
    'ref:sn delivered:lu failed:mu queued:nu dropped:nu elsewhere:su offset:nu stored:su mailboxes:mu duplicates:lu',
  failed: 'ack:s dest:sm code:s',
  subscribed:
    'topic:su ref:snu offset:nu epoch:su recovered:bu lost:nu replay:nu mailbox:su waiting:nu',
  history: 'ref:sn messages:al epoch:su offset:nu more:bu',
  unsubscribed: 'topic:su ref:snu code:su group:su mailbox:su',
  gap: 'topic:s lost:nu',
  watched: 'ref:snu',
  unwatched: 'ref:snu topic:su ids:lu code:su',
  presence: 'topic:su count:nu members:mou joined:mou left:lu online:lu offline:lu',
  error: 'ref:snu ack:su code:s message:su',
  cancel: 'ack:s',
  goaway: 'within:n',
  received: 'count:n',
});

/** A Map from each action to the `[name, kinds]` of its members. */
function parse(actions) {
  const members = (text) => text.split(' ').map((member) => member.split(':'));
  return new Map(Object.entries(actions).map(([action, text]) => [action, members(text)]));
}

/**
 * The kind of a value: the first letter of its type; `l` for an array of strings, `m` for an object of strings; `u`
 * for null and undefined; `a` for any other array, `o` for any other object.
 */
function kindOf(value) {
  if (Object(value) !== value) {
    return (typeof (value ?? undefined))[0];
  }
  const hasStrings = Object.values(value).every((item) => typeof item === 'string');
  if (Array.isArray(value)) {
    return hasStrings ? 'l' : 'a';
  }
  return hasStrings ? 'm' : 'o';
}

/**
 * The values of a frame's members, as arguments for the method that handles its action. Undefined if the action is
 * unknown, false if a member has a wrong type.
 */
function readMembers(frame, usesVersion2) {
  const members =
    MEMBERS.get(frame.action) ?? (usesVersion2 ? MEMBERS_2.get(frame.action) : undefined);
  const isValid = members?.every(([name, kinds]) => !kinds || kinds.includes(kindOf(frame[name])));
  return isValid && members.map(([name]) => frame[name]);
}

module.exports = { readMembers };
