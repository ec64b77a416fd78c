'use strict';

module.exports = require('./lib/client');
module.exports.Server = require('./lib/server');
