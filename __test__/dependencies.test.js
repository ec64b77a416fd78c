'use strict';

// Every direct dependency must have a reason in CONTRIBUTING.md, and every reason a dependency.

const fs = require('node:fs');
const path = require('node:path');
const test = require('ava');
const manifest = require('../package.json');

const read = (name) => fs.readFileSync(path.join(__dirname, '..', name), 'utf8');

/** The crates in all dependency tables of Cargo.toml. */
function crates() {
  const names = new Set();
  let wanted = false;
  for (const line of read('Cargo.toml').split('\n')) {
    const [, table] = /^\[(.+)\]$/.exec(line) ?? [];
    if (table !== undefined) wanted = /(^|[.-])dependencies$/.test(table);
    const [, name] = /^([\w-]+)(\.\w+)?\s*=/.exec(line) ?? [];
    if (wanted && name !== undefined) names.add(name);
  }
  return names;
}

/** The names in the first column of the table in the section "Dependencies". */
function explained() {
  const [, section] = /^## Dependencies\n(.*?)^## /ms.exec(read('CONTRIBUTING.md'));
  const rows = section.matchAll(/^\| (`.+`) \| (.+) \|$/gm);
  return [...rows].flatMap(([, names]) => names.split(', ').map((name) => name.slice(1, -1)));
}

test('CONTRIBUTING.md gives a reason for exactly the direct dependencies', (t) => {
  const { dependencies, devDependencies } = manifest;
  const packages = Object.keys({ ...dependencies, ...devDependencies });
  const direct = [...crates(), ...packages];
  t.true(direct.length > 10);
  t.deepEqual(explained().sort(), direct.sort());
});
