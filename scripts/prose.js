'use strict';

// Linter for prose: reports words and phrases that readers have to translate, in Markdown and in the comments
// of Rust, JavaScript and TypeScript. `npm run lint:prose` checks all paths that are not in PENDING;
// `node scripts/prose.js src docs` checks any path.

const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');

/** Paths that are not checked yet. An empty list enforces the whole tree. */
const PENDING = [];

/** Folders and files without prose of our own. */
const SKIPPED = ['.git', 'binding.d.ts', 'browser', 'corpus', 'node_modules', 'results', 'target'];

/** Beginnings of a doc comment that do not name the documented item. */
const BEGINNINGS = /^(?:The same|What|Who|Whoever)\b/;
const BEGINNING_ADVICE = 'begin with the thing that is documented';

/** Phrases and their replacements. They match within a paragraph, also across line ends. */
const PHRASES = [
  [/\bwho(?:m)?ever\b/i, 'name the party: the client, the sender, the caller'],
  [/\bnobody\b/i, 'no owner, no receiver, an unknown id'],
  [/\bpush(?:es|ed|ing)?[- ]back\b/i, 'backpressure'],
  // "is told to close" and "was told the reason" have an object.
  [
    /\b(?:is|are|was|were|be|been|being)(?: \w+)? told\b(?! (?:about|its|that|the|to|when|which|why)\b)/i,
    'gets, receives, is notified of ...',
  ],
  [/\btells?(?=[.,:;)]|$)/i, 'name the event, the code or the return value'],
  [/\b(?:says|tells|told) so\b/i, 'name the event, the code or the return value'],
  [/\b(?:heard|hears)\b/i, 'receives, detects, is reachable'],
  [/\bNATS is (?:away|back|gone)\b/i, 'NATS is unreachable, is reachable again'],
  [/\bkeeps? up\b/i, 'is slow'],
  [/\bpatience\b/i, 'timeout'],
  [/\bin (?:silence|vain)\b|\bwithout a word\b/i, 'without an error, without effect'],
  [/\bmanieth\b/i, 'number of the attempt'],
  [/\bas ever\b/i, 'as usual, or nothing'],
  [/\btakes? part itself\b/i, "the server's own client"],
  [
    /\bare one(?=[.,:;)]|$| over\b| with\b)|\bone with (?:each other|others|the other)/i,
    'form a cluster',
  ],
  [/\bmeans? harm\b/i, 'malicious'],
];

/** Replaces code by spaces, so that offsets stay: identifiers may be named like dialect. */
function withoutCode(text) {
  return text.replace(/`[^`]*`/g, (code) => ' '.repeat(code.length));
}

/** Paragraphs of a Markdown file: runs of lines that are not blank, outside of fenced and indented code. */
function* paragraphs(text) {
  let fence;
  let lines = [];
  let first = 0;
  for (const [index, line] of [...text.split('\n'), ''].entries()) {
    const [mark] = /^\s*(?:```|~~~)/.exec(line) ?? [];
    if (mark !== undefined && (fence === undefined || fence === mark.trim())) {
      fence = fence === undefined ? mark.trim() : undefined;
    }
    const isProse = fence === undefined && mark === undefined && !/^\s*$|^ {4}\S/.test(line);
    // Each row of a table and each item of a list is a paragraph of its own.
    if (lines.length > 0 && (!isProse || /^\s*(?:[-*|#]|\d+\.) ?/.test(line))) {
      yield { lines, first, isDoc: false };
      lines = [];
    }
    if (isProse) {
      if (lines.length === 0) first = index + 1;
      lines.push(line);
    }
  }
}

/**
 * Comments of a Rust, JavaScript or TypeScript file: runs of line comments of one kind, and block comments. The first
 * one documents the file.
 */
function* comments(text) {
  let lines = [];
  let kind;
  let first = 0;
  let isHeader = true;
  const take = () => {
    const comment = { lines, first, isDoc: kind !== '//' || isHeader };
    isHeader = false;
    lines = [];
    return comment;
  };
  for (const [index, line] of [...text.split('\n'), ''].entries()) {
    // A comment stands alone on its line or after code and a space, unlike the `//` of a URL.
    const [, mark, words] =
      kind === '/**'
        ? [null, '/**', line]
        : (/^\s*(\/\/[/!]?|\/\*\*?)(?!\/)(.*)$/.exec(line) ?? /\s(\/\/) (.*)$/.exec(line) ?? []);
    if (mark !== kind && lines.length > 0) yield take();
    kind = mark === '/*' ? '/**' : mark;
    if (kind === undefined) continue;
    if (lines.length === 0) first = index + 1;
    lines.push(words.replace(/^\s*\*(?!\/)/, '').replace(/\*\/.*$/, ''));
    if (kind === '/**' && words.includes('*/')) {
      yield take();
      kind = undefined;
    }
  }
}

/** Findings in one text: `{ line, found, advice }`. The extension of `file` decides what is prose. */
function lint(file, text) {
  const findings = [];
  const parts = path.extname(file) === '.md' ? paragraphs(text) : comments(text);
  for (const { lines, first, isDoc } of parts) {
    const joined = withoutCode(lines.map((line) => line.trim()).join('\n'));
    const lineAt = (offset) => first + joined.slice(0, offset).split('\n').length - 1;
    const add = (match, advice) =>
      findings.push({ line: lineAt(match.index), found: match[0].replace(/\s+/g, ' '), advice });
    const start = joined.search(/\S/);
    const beginning = isDoc && BEGINNINGS.exec(joined.slice(Math.max(start, 0)));
    if (beginning) add({ ...beginning, index: start }, BEGINNING_ADVICE);
    // One line per paragraph, of equal length, for phrases that cross a line end.
    const flat = joined.replaceAll('\n', ' ');
    for (const [pattern, advice] of PHRASES) {
      for (const match of flat.matchAll(new RegExp(pattern, `${pattern.flags}g`))) {
        add(match, advice);
      }
    }
  }
  return findings.sort((a, b) => a.line - b.line);
}

/** Files with prose at a path. */
function filesAt(name) {
  if (!fs.statSync(name).isDirectory()) return [name];
  const entries = fs.readdirSync(name, { withFileTypes: true });
  return entries
    .filter((entry) => !SKIPPED.includes(entry.name))
    .flatMap((entry) => {
      const child = path.join(name, entry.name);
      if (entry.isDirectory()) return filesAt(child);
      return /\.(?:md|rs|[cm]?js|[cm]?ts)$/.test(entry.name) ? [child] : [];
    });
}

function main(paths, pending) {
  let count = 0;
  const isPending = (file) =>
    pending.some((name) => file === name || file.startsWith(name + path.sep));
  for (const file of paths.flatMap(filesAt).filter((file) => !isPending(file))) {
    for (const { line, found, advice } of lint(file, fs.readFileSync(file, 'utf8'))) {
      count += 1;
      console.log(`${path.relative(process.cwd(), file)}:${line}: "${found}": ${advice}`);
    }
  }
  if (count > 0) console.log(`${count} findings`);
  process.exitCode = count > 0 ? 1 : 0;
}

module.exports = { lint };

if (require.main === module) {
  const given = process.argv.slice(2);
  const pending = PENDING.map((name) => path.join(root, name));
  main(given.length > 0 ? given : [root], given.length > 0 ? [] : pending);
}
