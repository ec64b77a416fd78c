'use strict';

// A program that connects by TLS with the authorities of its environment. Arguments: the URL, and the options as JSON.
// Prints the outcome.

const WSMsgBroker = require('../..');

const [url, options] = process.argv.slice(2);
const client = new WSMsgBroker('a', url, options && JSON.parse(options));
client.on('error', ({ code, message }) => console.log(code, message));
client.on('registered', () => {
  console.log('registered');
  client.close();
});
