'use strict';

// A broker behind a link that drops all packets.

const { execFile } = require('node:child_process');
const path = require('node:path');
const { promisify } = require('node:util');
const test = require('ava');

if (process.platform === 'linux') {
  test('an unreachable broker is given up in time, and afterwards the newest registration owns an id', async (t) => {
    t.timeout(120_000);
    const scene = path.join(__dirname, 'support', 'apart', 'scene.js');
    // Runs in a network namespace, so that the host's network is not affected.
    const args = ['--user', '--map-root-user', '--net', '--', process.execPath, scene];
    await t.notThrowsAsync(promisify(execFile)('unshare', args));
  });
}
