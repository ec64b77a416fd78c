'use strict';

const fs = require('node:fs');

/** The pipe that unblocks the program. */
const WAKE = 4;

/** Blocks the thread until data arrives on the pipe. Sends a message to the parent before and afterwards. */
module.exports = function block() {
  process.send({ blocked: true }, () => {
    fs.readSync(WAKE, Buffer.alloc(1));
    process.send({ awake: true });
  });
};
