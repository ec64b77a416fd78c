'use strict';

// Topics, and the patterns that subscribe to them (rules 34.1 and 34.2 of spec/protocol.md).

const { wrong } = require('./arguments');

const TOKEN = '[^.*> \\p{Cc}\\p{Cs}]+';
const ANY_TOKEN = `(${TOKEN}|\\*)`;
const TOPIC = new RegExp(`^(?!\\$)${TOKEN}(\\.${TOKEN}){0,15}$`, 'u');
const PATTERN = new RegExp(`^(?!\\$)(>|${ANY_TOKEN}(\\.${ANY_TOKEN}){0,15}(\\.>)?)$`, 'u');

const isTopic = (text) => typeof text === 'string' && TOPIC.test(text);

const isPattern = (text) => typeof text === 'string' && PATTERN.test(text);

function checkTopic(topic) {
  if (!isTopic(topic)) {
    throw wrong('TOPIC', `topic is ${JSON.stringify(topic)}, expected tokens joined by "."`);
  }
}

function checkPattern(topic) {
  if (!isPattern(topic)) {
    const expected = 'expected tokens joined by ".", "*" for one, ">" for the rest';
    throw wrong('TOPIC', `topic is ${JSON.stringify(topic)}, ${expected}`);
  }
}

/** True if a pattern matches a topic. */
function matches(pattern, topic) {
  const tokens = topic.split('.');
  const expected = pattern.split('.');
  const isOpen = expected.at(-1) === '>';
  if (isOpen) {
    expected.pop();
  }
  return (
    (isOpen ? tokens.length > expected.length : tokens.length === expected.length) &&
    expected.every((token, place) => token === '*' || token === tokens[place])
  );
}

module.exports = { isTopic, isPattern, checkTopic, checkPattern, matches };
