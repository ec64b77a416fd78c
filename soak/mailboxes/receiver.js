'use strict';

// A receiver of a mailbox, which is killed again and again: `receiver.js ID URL`. Reports each message before and after its
// acknowledgment, by a synchronous write, so that a report is never lost.

const fs = require('node:fs');
const WSMsgBroker = require('../..');

const [id, url] = process.argv.slice(2);
const report = (event) => fs.writeSync(1, `${JSON.stringify(event)}\n`);

const client = new WSMsgBroker(id, url, { protocol: 2, reconnect: { minDelay: 5, maxDelay: 50 } });
client.connected().then(async () => {
  const mailbox = await client.openMailbox();
  mailbox.on('message', ({ sender, number }, mail) => {
    const { offset, attempt } = mail;
    report({ sender, number, offset, attempt });
    // Some are given back.
    if (attempt === 1 && number % 17 === 0) {
      mail.retry(number % 2 === 0 ? 0 : 20);
      return;
    }
    mail.ack();
    report({ sender, number, isDone: true });
  });
});
