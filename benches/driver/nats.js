'use strict';

// The path and version of nats-server.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

/** The path to which `scripts/nats.js` installs it. */
const OWN = path.join(__dirname, '../../target/nats/nats-server');

/** That path, or the program of the system. */
const natsServer = () => (fs.existsSync(OWN) ? OWN : 'nats-server');

/** The version, or undefined without a nats-server. */
function natsVersion() {
  const { stdout } = spawnSync(natsServer(), ['--version'], { encoding: 'utf8' });
  return stdout?.match(/v([\d.]+)/)?.[1];
}

module.exports = { natsServer, natsVersion };
