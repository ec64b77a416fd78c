'use strict';

// Frames of a server: each action, each of its members, each kind of JSON value in its place. Given as text,
// because JavaScript would not serialize many of them.

const DEPTH = 10_000;

/** JSON texts by name, and their kinds: see `MEMBERS` in lib/client/incoming.js. */
const VALUES = {
  missing: [undefined, 'u'],
  null: ['null', 'u'],
  true: ['true', 'b'],
  zero: ['0', 'n'],
  'negative zero': ['-0', 'n'],
  'more than any number': ['1e999', 'n'],
  'a number': ['17', 'n'],
  'an empty string': ['""', 's'],
  'a string': ['"text"', 's'],
  'a long string': [`"${'x'.repeat(40_000)}"`, 's'],
  'a lone surrogate': ['"\\ud800"', 's'],
  'deep array': [`${'['.repeat(DEPTH)}${']'.repeat(DEPTH)}`, 'o'],
  'deep object': [`${'{"a":'.repeat(DEPTH)}1${'}'.repeat(DEPTH)}`, 'o'],
  'a list': ['["text"]', 'l'],
  'a list of numbers': ['[1]', 'o'],
  'a map': ['{"a":"GONE"}', 'm'],
  'no text': ['{"toString":0,"valueOf":0}', 'o'],
  'some text': ['{"toString":"message","valueOf":"message","constructor":"message"}', 'm'],
  'a thenable': ['{"then":{"call":1},"catch":1,"finally":1}', 'o'],
  'a prototype': ['{"__proto__":{"a":1},"constructor":{"prototype":{"a":1}}}', 'o'],
  'a length': ['{"length":1e9,"0":"a"}', 'o'],
};

/** The members of each action, the first word of its name, with a valid value and the valid kinds, which are all by default. */
const ANY = 'ubnsolm';
const ACTIONS = {
  unregistered: { id: ['"client"', ANY], code: ['"OTHER"', 'su'] },
  message: { message: ['1', ANY], from: ['"peer"', 'snu'] },
  answer: { ack: ['"k"', ANY], from: ['"peer"', 'snu'], message: ['1', ANY], error: ['{}', ANY] },
  receipt: { ref: ['900', 'sn'], delivered: ['["a"]', 'lu'], failed: ['{}', 'mu'] },
  failed: { ack: ['"k"', 's'], dest: ['"a"', 'sm'], code: ['"GONE"', 's'] },
  cancel: { ack: ['"k"', 's'] },
  'message of a mailbox': { message: ['1', ANY], mailbox: ['"a"', 'su'], key: ['"k"', 'su'] },
  subscribed: { topic: ['"a"', 's'], ref: ['900', 'snu'] },
  'unsubscribed of a mailbox': { mailbox: ['"a"', 's'], code: ['"FORBIDDEN"', 'su'] },
  unsubscribed: { topic: ['"a"', 's'], ref: ['900', 'snu'], code: ['"FORBIDDEN"', 'su'] },
  gap: { topic: ['"a"', 's'], lost: ['1', 'nu'] },
  goaway: { within: ['60000', 'n'] },
};

/**
 * Yields `{ name, text, isWrong }` per frame. An empty list is a list of strings, and an empty object a map.
 */
function* frames() {
  for (const [action, members] of Object.entries(ACTIONS)) {
    for (const [member, [, right]] of Object.entries(members)) {
      for (const [name, [text, kind]] of Object.entries(VALUES)) {
        const others = Object.entries(members).map(([other, [value]]) => [
          other,
          other === member ? text : value,
        ]);
        const written = others.filter(([, value]) => value !== undefined);
        const body = written.map(([other, value]) => `,"${other}":${value}`).join('');
        yield {
          name: `${action}.${member}: ${name}`,
          text: `{"action":"${action.split(' ')[0]}"${body}}`,
          isWrong: !right.includes(kind),
          isAnswer: action === 'answer',
        };
      }
    }
  }
  for (const [name, [text]] of Object.entries(VALUES)) {
    const action = text === undefined ? '' : `"action":${text}`;
    yield { name: `action: ${name}`, text: `{${action}}`, isWrong: true };
  }
}

module.exports = { frames, VALUES };
