'use strict';

const fs = require('node:fs');

/** The pipe by which a program is woken. */
const WAKE = 4;

/** Nothing of JavaScript runs in this process until it is woken; said before and after. */
module.exports = function block() {
  process.send({ blocked: true }, () => {
    fs.readSync(WAKE, Buffer.alloc(1));
    process.send({ awake: true });
  });
};
