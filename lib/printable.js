'use strict';

// Makes texts of peers safe to print in one line: a peer must not be able to forge a line or to control a terminal.

/** Characters that end a line, control a terminal, or reorder the text beside them. */
const UNPRINTABLE = '[\\p{Cc}\\p{Zl}\\p{Zp}\\p{Bidi_Control}]';
/** Texts that are printed as JSON: those with such a character, and those that look like JSON. */
const NEEDS_JSON = new RegExp(`^"|${UNPRINTABLE}`, 'u');
/** Those characters. JSON does not escape all of them. */
const UNESCAPED = new RegExp(UNPRINTABLE, 'gu');

/** A text with escapes in place of unprintable characters. */
function escapeUnprintable(text) {
  const escaped = (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return text.replace(UNESCAPED, escaped);
}

/** JSON text without unprintable characters. */
const printableJson = (value) => escapeUnprintable(JSON.stringify(value));

/** A text unchanged, or as JSON in one line. */
function printable(text) {
  return NEEDS_JSON.test(text) ? printableJson(text) : text;
}

module.exports = { escapeUnprintable, printable, printableJson };
