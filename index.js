'use strict';

// The entry point of the package in Node.js: the class WSMsgBroker (a client), with the class Server as its member.

const { WSMsgBroker } = require('./lib/node');

module.exports = WSMsgBroker;
module.exports.Server = require('./lib/server');
