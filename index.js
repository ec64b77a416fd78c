'use strict';

const { WSMsgBroker } = require('./lib/client');

module.exports = WSMsgBroker;
module.exports.Server = require('./lib/server');
