'use strict';

// A broker behind a link that is cut without a word to either end.

const { execFile } = require('node:child_process');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');

if (process.platform === 'linux') {
  test('a broker that vanishes is given up in time, and when it is back the newest has an id', async (t) => {
    t.timeout(120_000);
    const scene = path.join(__dirname, 'support', 'apart', 'scene.js');
    // A network of its own: nothing of the machine is touched.
    const args = ['--user', '--map-root-user', '--net', '--', process.execPath, scene];
    await t.notThrowsAsync(promisify(execFile)('unshare', args));
  });
}
