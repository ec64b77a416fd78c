'use strict';

// Relative links in documents must lead to an existing file and heading. In documents of the package they
// must lead to a file of the package.

const fs = require('node:fs');
const path = require('node:path');
const test = require('ava');
const { files } = require('../package.json');

const root = path.join(__dirname, '..');
const read = (file) => fs.readFileSync(path.join(root, file), 'utf8');

/** All documents of the repository by their paths from its root. */
function documents() {
  const skipped = new Set(['node_modules', 'target', '.git', '.nodes', 'original']);
  const walk = (folder) =>
    fs.readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
      const name = path.posix.join(folder, entry.name);
      if (entry.isDirectory()) return skipped.has(entry.name) ? [] : walk(name);
      return name.endsWith('.md') ? [name] : [];
    });
  return walk('.');
}

/** The text without code, which may look like a link or a heading. */
const prose = (text) =>
  text
    .replace(/^```[\s\S]*?^```$/gm, '')
    .replace(/`[^`\n]*`/g, (code) => code.replace(/[[\]]/g, ''));

/** The relative links of a document: `[file, anchor]`. */
function links(file) {
  return [...prose(read(file)).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target]) => target)
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => {
      const [name, anchor] = target.split('#');
      const folder = path.posix.dirname(file);
      return [name ? path.posix.join(folder, name) : file, anchor, target];
    });
}

/** The anchors of a document: its headings as GitHub and npm name them. */
function anchors(file) {
  const seen = new Map();
  return [...prose(read(file)).matchAll(/^#{1,6} (.+)$/gm)].map(([, heading]) => {
    const name = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-');
    const count = seen.get(name) ?? 0;
    seen.set(name, count + 1);
    return count === 0 ? name : `${name}-${count}`;
  });
}

const isPacked = (file) =>
  file === 'README.md' || files.some((name) => file === name || file.startsWith(`${name}/`));

test('every relative link leads to a file and a heading', (t) => {
  let count = 0;
  for (const file of documents()) {
    for (const [name, anchor, target] of links(file)) {
      count += 1;
      const exists = fs.existsSync(path.join(root, name));
      t.true(exists, `${file}: ${target}`);
      if (exists && anchor) t.true(anchors(name).includes(anchor), `${file}: ${target}`);
    }
  }
  t.true(count > 150);
});

test('links in packed documents lead to packed files', (t) => {
  const packed = documents().filter(isPacked);
  t.true(packed.length > 15);
  for (const file of packed) {
    for (const [name, , target] of links(file)) t.true(isPacked(name), `${file}: ${target}`);
  }
});
