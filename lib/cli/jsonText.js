'use strict';

// Parses JSON, with the places of its errors and of its members: line and column.

const TOKEN =
  /[ \t\r\n]*(?:([{}[\],:])|("(?:[^"\\]|\\[\s\S])*")|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)|$)/uy;

/** An error at a place of a text. */
class PlaceError extends Error {
  constructor(text, offset, message) {
    super(`${placeOf(text, offset)}: ${message}`);
  }
}

/** Line and column of an offset, counted from 1. */
function placeOf(text, offset) {
  const before = text.slice(0, offset).split('\n');
  return `${before.length}:${before.at(-1).length + 1}`;
}

/**
 * Parses a text. Returns its value, and the places of all members by their path, such as `jwt.issuer`. Throws a
 * PlaceError for a text that is not JSON, and for a name that an object has twice.
 */
function parseJson(text) {
  const places = new Map();
  let offset = 0;

  function next() {
    TOKEN.lastIndex = offset;
    const found = TOKEN.exec(text);
    const skipped = /[ \t\r\n]*/y;
    skipped.lastIndex = offset;
    const start = offset + skipped.exec(text)[0].length;
    if (found === null) {
      throw new PlaceError(text, start, 'unexpected character');
    }
    offset = TOKEN.lastIndex;
    const [, sign, string, literal] = found;
    return { sign, string, literal, start };
  }

  function expected(what, { start }) {
    const found = start >= text.length ? ', found the end of the text' : '';
    return new PlaceError(text, start, `expected ${what}${found}`);
  }

  function read(token) {
    try {
      return JSON.parse(token.string ?? token.literal);
    } catch {
      throw new PlaceError(text, token.start, 'invalid string');
    }
  }

  function value(token, path) {
    if (token.string ?? token.literal) {
      return read(token);
    }
    if (token.sign === '{') return object(path);
    if (token.sign === '[') return array(path);
    throw expected('a value', token);
  }

  function object(path) {
    const members = {};
    for (let token = next(); ; token = next()) {
      if (token.sign === '}' && Object.keys(members).length === 0) return members;
      if (token.string === undefined) throw expected('a name in quotes', token);
      const name = read(token);
      if (Object.hasOwn(members, name)) {
        throw new PlaceError(text, token.start, `"${name}" is there twice`);
      }
      const own = [...path, name];
      places.set(own.join('.'), placeOf(text, token.start));
      const colon = next();
      if (colon.sign !== ':') throw expected('a colon', colon);
      Object.defineProperty(members, name, {
        value: value(next(), own),
        enumerable: true,
        configurable: true,
        writable: true,
      });
      const end = next();
      if (end.sign === '}') return members;
      if (end.sign !== ',') throw expected('a comma or a closing brace', end);
    }
  }

  function array(path) {
    const items = [];
    for (let token = next(); ; token = next()) {
      if (token.sign === ']' && items.length === 0) return items;
      items.push(value(token, path));
      const end = next();
      if (end.sign === ']') return items;
      if (end.sign !== ',') throw expected('a comma or a closing bracket', end);
    }
  }

  const result = value(next(), []);
  const end = next();
  if (end.start < text.length) throw expected('the end of the text', end);
  return { value: result, places };
}

module.exports = { parseJson, PlaceError };
