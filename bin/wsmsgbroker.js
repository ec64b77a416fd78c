#!/usr/bin/env node
'use strict';

// The command wsmsgbroker: starts a broker, or is a client of one. Each subcommand is a file of lib/cli/.

require('../lib/cli')(process.argv.slice(2));
