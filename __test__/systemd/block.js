'use strict';

// Loaded before the command: SIGPIPE blocks JavaScript for two seconds.

const fs = require('node:fs');

process.on('SIGPIPE', () => {
  fs.writeSync(2, 'blocked\n');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000);
  fs.writeSync(2, 'unblocked\n');
});
