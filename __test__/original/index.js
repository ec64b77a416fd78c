'use strict';

// wsmsgbroker 1.7.2 and its `ws`, for the tests that compare 2.0 with it. They are installed only here. The
// versions are exact, so no lock file is needed.

const path = require('node:path');

const INSTALL = 'npm install --ignore-scripts --prefix __test__/original';

function load(name) {
  try {
    return require(name);
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error;
    throw new Error(`wsmsgbroker 1.7.2 is not installed; run: ${INSTALL}`);
  }
}

const WSMsgBroker = load('wsmsgbroker');
const directory = path.dirname(require.resolve('wsmsgbroker/package.json'));

module.exports = { WSMsgBroker, WebSocket: load('ws'), directory };
