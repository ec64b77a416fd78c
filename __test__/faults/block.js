'use strict';

/** Nothing of JavaScript runs in this process for so long; said before and after. */
module.exports = function block(millis) {
  process.send({ blocked: true }, () => {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, millis);
    process.send({ awake: true });
  });
};
