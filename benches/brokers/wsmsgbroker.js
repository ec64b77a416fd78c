'use strict';

// This package, with its defaults. `--threads N` overrides the number of worker threads.

const { parseArgs } = require('node:util');
const WSMsgBroker = require('../..');
const { announce } = require('./stdio');

const { values } = parseArgs({ options: { threads: { type: 'string' } } });
const options = { port: 0, host: '127.0.0.1' };
if (values.threads !== undefined) options.threads = Number(values.threads);

const server = new WSMsgBroker.Server(options);
server.on('warn', (error) => console.error('warn:', error.message));
server.on('error', (error) => console.error('error:', error.message));
server.on('listening', () => announce(server.address().port));
