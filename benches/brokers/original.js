'use strict';

// wsmsgbroker 1.7.2 as in production. It has no option for its address, and would listen on 0.0.0.0, and no
// way to ask for its port. Both are solved here.

const net = require('node:net');

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function onLoopback(port, _host, ...rest) {
  return listen.call(this, port, '127.0.0.1', ...rest);
};

const WSMsgBroker = require('wsmsgbroker');
const { announce } = require('./stdio');

const server = new WSMsgBroker.Server(0);
server.on('warn', (error) => console.error('warn:', error.message));
server.on('error', (error) => console.error('error:', error.message));
server.wss.on('listening', () => announce({ port: server.wss._server.address().port }));
