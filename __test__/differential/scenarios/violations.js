'use strict';

// Bytes that violate the WebSocket protocol (D4). In 1.7.2 most of them end the broker's process, so these
// scenarios are isolated and record its uncaught exceptions.

const { frame, maskedCloseCode, request } = require('../frames');

const text = (bytes) => Buffer.from(bytes);
const masked = { masked: true };
const REGISTER = '{"action":"register","id":"x"}';

// The code of the close frame after the handshake in the bytes from a server, if any.
function closeCode(received) {
  const frames = Buffer.from(received.slice(received.indexOf('\r\n\r\n') + 4), 'latin1');
  return frames[0] === 0x88 && frames[1] >= 2 ? frames.readUInt16BE(2) : undefined;
}

// Sends bytes after a handshake and records their effect on the process, the connection and other
// connections.
async function broken(stage, bytes) {
  const uncaught = new Promise((resolve) => {
    process.on('uncaughtException', (error) => {
      stage.log('process', 'uncaught', error);
      resolve();
    });
  });
  const server = await stage.server();
  const witness = await stage.client('witness', server);
  const tcp = await stage.tcp(server);
  tcp.write(request('/') + bytes.toString('latin1'));
  const closed = tcp.received((received) => closeCode(received) !== undefined);
  await Promise.race([uncaught, closed]);
  await closed;
  stage.log('offender', 'closed with', closeCode(tcp.text));
  tcp.destroy();
  witness.send('others go on', 'witness');
  await stage.until('client witness', 'message');
  // 1.7.2 emits no event for the end of a connection that it had not announced before.
  stage.forget('server');
}

const WITNESS = [['open'], ['registered'], ['message', 'others go on', 'no answer wanted']];

// A violation that closes the connection. `crash`: the exception that ends 1.7.2.
function violation(title, bytes, code, crash, originalCode = code) {
  return {
    title,
    isolated: true,
    differs: ['D4'],
    expected: {
      original: {
        process: [['uncaught', `<Error: ${crash}>`]],
        offender: [['closed with', originalCode]],
        'client witness': WITNESS,
      },
      ours: { offender: [['closed with', code]], 'client witness': WITNESS },
    },
    play: (stage) => broken(stage, bytes),
  };
}

// A violation that 1.7.2 accepts and 2.0 does not: records whether the next frame is still served.
function accepted(title, bytes, code) {
  return {
    title,
    isolated: true,
    differs: ['D4'],
    expected: { original: { offender: [['served']] }, ours: { offender: [['closed with', code]] } },
    async play(stage) {
      const server = await stage.server();
      const tcp = await stage.tcp(server);
      const next = frame(0x81, text('{"action":"register","id":"next"}'), masked);
      tcp.write(request('/') + Buffer.concat([bytes, next]).toString('latin1'));
      const closed = () => closeCode(tcp.text) !== undefined;
      await tcp.received((received) => closed() || received.includes('"next"'));
      if (closed()) stage.log('offender', 'closed with', closeCode(tcp.text));
      else stage.log('offender', 'served');
      stage.forget('server');
    },
  };
}

const LARGE = 101 * 1024 * 1024;

module.exports = [
  violation(
    'a frame with a reserved bit closes its connection, not the process',
    frame(0xa1, text(REGISTER), masked),
    1002,
    'reserved fields must be empty',
  ),
  violation(
    'a compressed frame without compression closes its connection, not the process',
    frame(0xc1, text(REGISTER), masked),
    1002,
    'reserved fields must be empty',
  ),
  violation(
    'an unknown opcode closes its connection, not the process',
    frame(0x83, text('x'), masked),
    1002,
    'no handler for opcode 3',
  ),
  violation(
    'a lone continuation closes its connection, not the process',
    frame(0x80, text('x'), masked),
    1002,
    'continuation frame cannot follow current opcode',
  ),
  violation(
    'a ping in fragments closes its connection, not the process',
    frame(0x09, text('x'), masked),
    1002,
    'fragmented ping is not supported',
  ),
  violation(
    'a ping that is too long closes its connection, not the process',
    frame(0x89, Buffer.alloc(126), masked),
    1002,
    'control frames cannot have more than 125 bytes of data',
  ),
  violation(
    'a close frame of one byte closes its connection, not the process',
    frame(0x88, text('x'), masked),
    1002,
    'close packets with data must be at least two bytes long',
  ),
  violation(
    'a close code that is reserved closes its connection, not the process',
    frame(0x88, Buffer.from([0x03, 0xed]), masked),
    1002,
    'invalid error code',
  ),
  violation(
    'a message within a message in fragments closes its connection, not the process',
    Buffer.concat([frame(0x01, text('x'), masked), frame(0x01, text('y'), masked)]),
    1002,
    'data frames after the initial data frame must have opcode 0',
  ),
  violation(
    'a message above 100 MiB closes its connection, not the process',
    frame(0x81, Buffer.alloc(0), { masked: true, claimed: LARGE }),
    1009,
    'payload cannot exceed 104857600 bytes',
  ),
  accepted(
    'text that is not UTF-8 closes its connection, while 1.7.2 decodes the rest of it',
    frame(0x81, Buffer.from([0x22, 0xff, 0xfe, 0x22]), masked),
    1007,
  ),
  accepted(
    'an unmasked frame closes its connection, while 1.7.2 accepts it',
    frame(0x81, text(REGISTER)),
    1002,
  ),
  {
    title: 'a protocol violation of a server gives its client an error, then close(1006)',
    isolated: true,
    async play(stage) {
      const bad = [frame(0xa1, text('x')), frame(0x83, text('x')), frame(0x80), frame(0x09)];
      for (const [number, bytes] of bad.entries()) {
        const peer = await stage.tcpServer((socket, head) => breaks(stage, socket, head, bytes));
        const client = stage.connect('a', peer, { name: `client ${number}` });
        client.removeAllListeners('error');
        client.on('error', (error) => {
          // The text depends on the WebSocket library.
          stage.log(`client ${number}`, 'error', error instanceof Error);
        });
        await stage.until(`client ${number}`, 'close');
      }
    },
  },
  {
    title: 'a message of more than 100 MiB is refused by a client',
    isolated: true,
    differs: ['D14'],
    expected: {
      original: { 'client a': [['open'], ['close', 1006]], peer: [['waited for']] },
      ours: { 'client a': [['open'], ['error'], ['close', 1006]], peer: [['closed with', 1009]] },
    },
    async play(stage) {
      const large = frame(0x81, Buffer.alloc(0), { claimed: 102 * 1024 * 1024 });
      const peer = await stage.tcpServer((socket, head) => {
        breaks(stage, socket, head, large);
        if (stage.implementation.name !== '1.7.2') return;
        // 1.7.2 waits for the message, whatever its length.
        stage.until('client a', 'open').then(() => {
          stage.log('peer', 'waited for');
          socket.end();
        });
      });
      await stage.client('a', peer, { until: 'close' });
      for (const line of stage.recording()['client a']) if (line[0] === 'error') line.splice(1);
    },
  },
];

// A server that sends these bytes, records the close code of the client, and echoes it.
function breaks(stage, socket, head, bytes) {
  const offer = stage.implementation.name === '1.7.2' ? '' : ',"protocol":2';
  const register = frame(0x81, text(`{"action":"register","id":"a"${offer}}`), masked).length;
  let received = Buffer.alloc(0);
  stage.upgrade(socket, head, [bytes]);
  socket.on('data', (data) => {
    received = Buffer.concat([received, data]);
    const code = maskedCloseCode(received.subarray(register));
    if (code === undefined) return;
    stage.log('peer', 'closed with', code);
    socket.write(frame(0x88, Buffer.from([code >> 8, code & 0xff])));
    socket.end();
  });
}
