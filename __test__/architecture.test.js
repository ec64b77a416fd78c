'use strict';

// Checks the floors of ARCHITECTURE.md: modules of src/ import modules of lower floors only.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('ava');
const { check, circles } = require('../scripts/layers');

const root = path.join(__dirname, '..');
const markdown = fs.readFileSync(path.join(root, 'ARCHITECTURE.md'), 'utf8');

test('modules import lower floors only', (t) => {
  const { rooms, arrows, faults } = check(path.join(root, 'src'), markdown);
  t.deepEqual(faults, []);
  t.deepEqual(circles(rooms, arrows), []);
  // A lower bound: a parser that finds no modules would find no violations either.
  t.true(
    rooms.length > 12 && arrows.length > 50,
    `${rooms.length} modules, ${arrows.length} arrows`,
  );
});

/** The violations in a copy of src/ with one changed file. */
function changed(t, file, change) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-layers-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  fs.cpSync(path.join(root, 'src'), folder, { recursive: true });
  const target = path.join(folder, file);
  fs.mkdirSync(path.dirname(target), { recursive: true });
  const before = fs.existsSync(target) ? fs.readFileSync(target, 'utf8') : '';
  fs.writeFileSync(target, change(before));
  return check(folder, markdown);
}

for (const [name, file, line, fault] of [
  [
    'use',
    'transport/dial.rs',
    'use crate::broker::handle::Handle;',
    '"transport" (floor 3) imports "broker" (floor 4)',
  ],
  [
    'group of a use',
    'broker/lease.rs',
    'use crate::{\n    auth::Denied,\n    cluster::{Cluster, link::Link},\n};',
    '"broker" (floor 4) imports "cluster" (floor 5)',
  ],
  [
    'path',
    'cluster/bus.rs',
    'fn x() { crate::connection::y() }',
    '"cluster" (floor 5) imports "connection" (floor 5)',
  ],
  [
    'name of the public API',
    'auth/jwt.rs',
    'use crate::Server;',
    'imports the public name "Server"',
  ],
]) {
  test(`reports an import of a higher floor: ${name}`, (t) => {
    const { faults } = changed(t, file, (text) => `${line}\n${text}`);
    t.deepEqual(faults, [`${file}: ${fault}`]);
  });
}

test('reports a module on no floor, and a listed module that does not exist', (t) => {
  const { faults } = changed(t, 'extra.rs', () => '//! Nothing.\n');
  t.deepEqual(faults, ['extra.rs: module "extra" is on no floor']);
  const { faults: others } = check(
    path.join(root, 'src'),
    `${markdown}\n| 9 | \`attic\` |  |  |\n`,
  );
  t.deepEqual(others, ['ARCHITECTURE.md: there is no module "attic"']);
});

test('reports modules that import each other', (t) => {
  const arrows = [
    ['a', 'b'],
    ['b', 'c'],
    ['c', 'a'],
    ['c', 'd'],
  ];
  t.deepEqual(circles(['a', 'b', 'c', 'd'], arrows), ['a, b, c']);
});
