'use strict';

// A broker with mailboxes on the disk, which is killed again and again: `broker.js FOLDER PORT`.

const WSMsgBroker = require('../..');

const [folder, port] = process.argv.slice(2);
const server = new WSMsgBroker.Server({
  port: Number(port),
  host: '127.0.0.1',
  mailboxes: [{ mailbox: '*', messages: 100_000, bytes: 2 ** 30, totalBytes: 2 ** 30, disk: true }],
  store: { path: folder },
});
server.ready.then(
  () => process.send('ready'),
  (error) => {
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  },
);
