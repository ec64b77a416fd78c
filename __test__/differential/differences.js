'use strict';

// Intended differences between 2.0 and 1.7.2, numbered as in docs/guides/migrating-from-1x.md. A scenario
// that shows one names it and gives both recordings.

module.exports = {
  D1: 'the newest registration owns an id',
  D2: 'an answer goes to the connection that asked, and only those who were asked may answer',
  D3: 'a connection has one id at a time',
  D4: 'what a peer sends never ends the process; a protocol violation costs its connection',
  D5: 'a wrong path is refused with 404',
  D6: 'requests end, and no timer keeps a process alive',
  D7: 'an exception of a listener is the exception of its owner',
  D8: 'message listeners get (message, response or null, from); events of a server have further arguments',
  D9: 'methods may be called before open; what they return',
  D10: 'messages are carried as the text that was sent',
  D11: 'ids are strings of 1 to 8,192 bytes',
  D12: 'compression is not negotiated',
  D13: 'server.close() closes its clients with 1001',
  D14: 'maxPayload is 100 MiB in both directions',
  D15: 'everything has a limit',
  D17: 'a client offers version 2, and closes exactly once',
};
