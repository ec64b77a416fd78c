'use strict';

// Checks the imports of src/ against the floors of ARCHITECTURE.md, and counts them: `node scripts/layers.js`.

const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');

/** Modules of `src/` that hold tests and benchmarks: they may import anything. */
const EXEMPT = ['concurrency', 'fuzzing', 'bench'];

/** The floors of the table in ARCHITECTURE.md, by module: `| 3 | `a`, `b` | ... |`. */
function readFloors(markdown) {
  const floors = new Map();
  for (const [, floor, modules] of markdown.matchAll(/^\| (\d+) \| ((?:`\w+`(?:, )?)+) \|/gm)) {
    for (const [, name] of modules.matchAll(/`(\w+)`/g)) floors.set(name, Number(floor));
  }
  return floors;
}

/** All Rust files below a folder. */
function filesIn(folder) {
  return fs
    .readdirSync(folder, { recursive: true })
    .filter((name) => name.endsWith('.rs'))
    .map((name) => name.split(path.sep).join('/'));
}

/** The top-level module of a file of `src/`. */
const moduleOf = (file) => file.split('/')[0].replace(/\.rs$/, '');

/** Rust without comments and without the test module at its end. */
function codeOf(text) {
  const code = text.replace(/\/\/.*$/gm, '');
  return code.replace(/^#\[cfg\(test\)\]\s*(?:pub\(crate\) )?mod \w+ \{[\s\S]*/m, '');
}

/** The items between the outer braces of `{a, b::{c, d}}`. Any other text is its own single item. */
function itemsOf(body) {
  if (!body.startsWith('{')) return [body];
  const items = [''];
  let depth = 0;
  for (const char of body.slice(1, -1)) {
    depth += { '{': 1, '}': -1 }[char] ?? 0;
    if (char === ',' && depth === 0) items.push('');
    else items[items.length - 1] += char;
  }
  return items;
}

/** The top-level modules that a file names after `crate::`. */
function importsOf(code) {
  const found = new Set();
  for (const [, body] of code.matchAll(/\buse crate::(\{[^;]*\}|[^;]*);/g)) {
    for (const item of itemsOf(body.trim())) {
      const name = item.trim().match(/^\w+/)?.[0];
      if (name) found.add(name);
    }
  }
  for (const [, name] of code.matchAll(/\bcrate::(\w+)(?=::)/g)) found.add(name);
  return found;
}

/** Files that only tests include. Tests may import anything. */
const isTest = (file) => /(?:^|\/)(?:tests|model|piped|pipe|differential)(?:\/|\.rs$)/.test(file);

/**
 * The imports of a folder like `src/`: `{ rooms, arrows, faults }`. `arrows`: each pair of modules of which
 * the first imports the second. `faults`: the violations as texts.
 */
function check(folder, markdown) {
  const floors = readFloors(markdown);
  const arrows = new Map();
  const faults = [];
  const rooms = new Set();
  for (const file of filesIn(folder)) {
    const from = moduleOf(file);
    if (from === 'lib' || EXEMPT.includes(from) || isTest(file)) continue;
    rooms.add(from);
    if (!floors.has(from)) faults.push(`${file}: module "${from}" is on no floor`);
    for (const to of importsOf(codeOf(fs.readFileSync(path.join(folder, file), 'utf8')))) {
      // Types that `lib.rs` exports begin with a capital letter: the public API, open to the addon alone.
      if (to === from || EXEMPT.includes(to)) continue;
      if (/^[A-Z]/.test(to)) {
        if (from !== 'node') faults.push(`${file}: imports the public name "${to}"`);
        continue;
      }
      arrows.set(`${from} -> ${to}`, [from, to]);
      if (!(floors.get(to) < floors.get(from))) {
        faults.push(
          `${file}: "${from}" (floor ${floors.get(from)}) imports "${to}" (floor ${floors.get(to)})`,
        );
      }
    }
  }
  for (const name of floors.keys()) {
    if (!rooms.has(name)) faults.push(`ARCHITECTURE.md: there is no module "${name}"`);
  }
  return {
    rooms: [...rooms].sort(),
    arrows: [...arrows.values()],
    faults: [...new Set(faults)],
    floors,
  };
}

/** The import cycles: sets of modules that reach each other. */
function circles(rooms, arrows) {
  const reach = (from, seen = new Set()) => {
    for (const [, to] of arrows.filter(([one]) => one === from)) {
      if (!seen.has(to)) reach(to, seen.add(to));
    }
    return seen;
  };
  const reached = new Map(rooms.map((room) => [room, reach(room)]));
  const isIn = (room) => reached.get(room).has(room);
  const name = (room) =>
    rooms.filter((other) => reached.get(room).has(other) && reached.get(other)?.has(room));
  return [...new Set(rooms.filter(isIn).map((room) => name(room).join(', ')))];
}

module.exports = { check, circles };

if (require.main === module) {
  const markdown = fs.readFileSync(path.join(root, 'ARCHITECTURE.md'), 'utf8');
  const { rooms, arrows, faults, floors } = check(path.join(root, 'src'), markdown);
  const backward = arrows.filter(([from, to]) => !(floors.get(to) < floors.get(from)));
  console.log(
    `${rooms.length} modules on ${new Set(floors.values()).size} floors, ${arrows.length} arrows, ` +
      `${backward.length} backward, ${circles(rooms, arrows).length} circles`,
  );
  for (const fault of faults) console.error(fault);
  process.exitCode = faults.length > 0 ? 1 : 0;
}
