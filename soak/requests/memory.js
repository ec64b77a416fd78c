'use strict';

// What the heap of this process holds, once all is collected that may be.

const v8 = require('node:v8');
const vm = require('node:vm');

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc');

/** Bytes. Twice, for what a first collection only lets go. */
async function heap() {
  for (let n = 0; n < 2; n += 1) {
    await new Promise(setImmediate);
    collect();
  }
  return process.memoryUsage().heapUsed;
}

module.exports = heap;
