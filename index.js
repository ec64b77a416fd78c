'use strict';

module.exports = require('./lib/client').WSMsgBroker;
module.exports.Server = require('./lib/server');
