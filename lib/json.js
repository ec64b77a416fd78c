'use strict';

// Writes JSON of any depth. `JSON.stringify` is recursive, and throws a RangeError at some thousand levels: a program
// that forwards received values must not fail because of their depth.

/** Converts a value to JSON text, as `JSON.stringify(value)` does. */
function stringify(value) {
  try {
    return JSON.stringify(value);
  } catch (error) {
    if (!(error instanceof RangeError)) {
      throw error;
    }
    return stringifyDeep(value);
  }
}

/** Applies the conversions of `JSON.stringify` (`toJSON`, boxed values) to a member or an item. */
function prepared(value, key) {
  const converted = typeof value?.toJSON === 'function' ? value.toJSON(key) : value;
  const isBoxed =
    converted instanceof Number ||
    converted instanceof String ||
    converted instanceof Boolean ||
    converted instanceof BigInt;
  return isBoxed ? converted.valueOf() : converted;
}

const isNested = (value) => typeof value === 'object' && value !== null;

/** Converts a value to JSON text without recursion. Throws a TypeError for a circular structure. */
function stringifyDeep(value) {
  const top = prepared(value, '');
  if (!isNested(top)) {
    return JSON.stringify(top);
  }
  const pieces = [];
  const within = new Set();
  const levels = [];
  const enter = (object) => {
    if (within.has(object)) {
      throw new TypeError('Converting circular structure to JSON');
    }
    within.add(object);
    const isArray = Array.isArray(object);
    pieces.push(isArray ? '[' : '{');
    const keys = isArray ? null : Object.keys(object);
    levels.push({ object, keys, count: (keys ?? object).length, next: 0, isFirst: true });
  };
  enter(top);
  while (levels.length > 0) {
    const level = levels.at(-1);
    if (level.next === level.count) {
      pieces.push(level.keys === null ? ']' : '}');
      within.delete(level.object);
      levels.pop();
      continue;
    }
    const key = level.keys === null ? level.next : level.keys[level.next];
    level.next += 1;
    const item = prepared(level.object[key], String(key));
    const text = isNested(item) ? '' : JSON.stringify(item);
    if (text === undefined && level.keys !== null) {
      continue;
    }
    pieces.push(level.isFirst ? '' : ',', level.keys === null ? '' : `${JSON.stringify(key)}:`);
    level.isFirst = false;
    if (text === '') {
      enter(item);
    } else {
      pieces.push(text ?? 'null');
    }
  }
  return pieces.join('');
}

module.exports = { stringify };
