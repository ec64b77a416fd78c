'use strict';

// Mailboxes whose broker and receivers are killed: `node soak/mailboxes.js`. See README.md beside this file.

const { integer, origin, table } = require('../testkit/report');
const { RESULTS, parse, publish, run } = require('./command');
const play = require('./mailboxes/play');

const USAGE = `usage: node soak/mailboxes.js [options]
  --kills N      how often a process is killed: the broker, or a receiver (default 1000)
  --senders N    clients that send (default 4)
  --receivers N  processes with a mailbox (default 3)
  --out FOLDER   where mailboxes.md is written (default soak/results)
`;

function markdown({ killed, messages, stored, redelivered, duplicates, violations }, command) {
  return `${[
    '# Mailboxes whose broker and receivers are killed',
    'Is each message delivered whose receipt says that it is on the disk? Is none stored twice, and does none come again\n' +
      'without a higher attempt? Method and repetition: [README.md](../README.md).',
    origin(command),
    table(
      ['', ''],
      [
        ['times that the broker was killed (`kill -9`)', integer(killed.broker)],
        ['times that a receiver was killed', integer(killed.receivers)],
        ['messages', integer(messages)],
        ['of these with a receipt: on the disk', integer(stored)],
        ['sent again, and not stored again', integer(duplicates)],
        ['delivered again', integer(redelivered)],
        ['violations', integer(violations.length)],
      ],
    ),
    ...violations.slice(0, 20).map((violation) => `- **${violation}**`),
  ].join('\n\n')}\n`;
}

run(async () => {
  const options = parse(USAGE, { kills: 1000, senders: 4, receivers: 3, out: RESULTS });
  const result = await play(options);
  const command = `node soak/mailboxes.js --kills ${options.kills}`;
  publish(options.out, { 'mailboxes.md': markdown(result, command) });
  process.exit(result.violations.length > 0 ? 1 : 0);
});
