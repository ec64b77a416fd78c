'use strict';

// Where nats-server is.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

/** Where `scripts/nats.js` installs it. */
const OWN = path.join(__dirname, '../../target/nats/nats-server');

/** That, or what the system has. */
const natsServer = () => (fs.existsSync(OWN) ? OWN : 'nats-server');

/** Nothing where there is none. */
function natsVersion() {
  const { stdout } = spawnSync(natsServer(), ['--version'], { encoding: 'utf8' });
  return stdout?.match(/v([\d.]+)/)?.[1];
}

module.exports = { natsServer, natsVersion };
