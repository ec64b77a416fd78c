'use strict';

// The size of the heap of this process after garbage collection.

const v8 = require('node:v8');
const vm = require('node:vm');

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc');

/** Bytes. Collects twice, because the first collection makes further objects collectable. */
async function heap() {
  for (let n = 0; n < 2; n += 1) {
    await new Promise(setImmediate);
    collect();
  }
  return process.memoryUsage().heapUsed;
}

module.exports = heap;
