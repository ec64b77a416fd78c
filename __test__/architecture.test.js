'use strict';

// The floors of ARCHITECTURE.md hold: modules of src/ import lower floors only.

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
  // As many as there are at least: a parser that finds nothing would find no fault.
  t.true(
    rooms.length > 12 && arrows.length > 50,
    `${rooms.length} modules, ${arrows.length} arrows`,
  );
});

/** The faults of a copy of src/ in which a file was changed. */
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
  test(`an import of a higher floor is a fault: ${name}`, (t) => {
    const { faults } = changed(t, file, (text) => `${line}\n${text}`);
    t.deepEqual(faults, [`${file}: ${fault}`]);
  });
}

test('a module on no floor, and a floor without its module, are faults', (t) => {
  const { faults } = changed(t, 'extra.rs', () => '//! Nothing.\n');
  t.deepEqual(faults, ['extra.rs: module "extra" is on no floor']);
  const { faults: others } = check(
    path.join(root, 'src'),
    `${markdown}\n| 9 | \`attic\` |  |  |\n`,
  );
  t.deepEqual(others, ['ARCHITECTURE.md: there is no module "attic"']);
});

test('modules that use each other are a circle', (t) => {
  const arrows = [
    ['a', 'b'],
    ['b', 'c'],
    ['c', 'a'],
    ['c', 'd'],
  ];
  t.deepEqual(circles(['a', 'b', 'c', 'd'], arrows), ['a, b, c']);
});
