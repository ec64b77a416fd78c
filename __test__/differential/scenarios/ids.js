'use strict';

// Ids that are not ordinary texts (D11).

const registered = (id) => ['frame', `{"action":"registered","id":${id}}`];
const message = (text, from) => ['frame', `{"action":"message","message":${text},"from":${from}}`];

// Registers an id, sends to it from another connection, and closes that connection.
async function used(stage, id, dest = id) {
  const server = await stage.server();
  const a = await stage.raw(server, 'a', { register: 'a' });
  const odd = await stage.raw(server, 'odd', { register: id });
  a.frame({ action: 'send', message: 1, dest: [dest] });
  await stage.until('odd', 'frame', 2);
  odd.frame({ action: 'send', message: 2, dest: 'a' });
  await stage.until('a', 'frame', 2);
}

// 1.7.2 keeps the type of ids, 2.0 converts them to strings.
function number(id, text = String(id)) {
  const recording = (frame, event) => ({
    a: [registered('"a"'), message(2, frame)],
    odd: [registered(frame), message(1, '"a"')],
    server: [['connection'], ['registered', 'a'], ['connection'], ['registered', event]],
  });
  return {
    title: `the number ${id} as an id is the string "${text}"`,
    differs: ['D11'],
    expected: { original: recording(text, id), ours: recording(JSON.stringify(text), text) },
    play: (stage) => used(stage, id, text),
  };
}

const OBJECT_NAMES = ['constructor', 'toString', 'hasOwnProperty', 'valueOf'];

module.exports = [
  number(7),
  number(1.5),
  number(-3),
  {
    title: 'ids with names of object members work once they are registered',
    async play(stage) {
      const server = await stage.server();
      const a = await stage.raw(server, 'a', { register: 'a' });
      for (const [index, id] of OBJECT_NAMES.entries()) {
        await stage.client(id, server);
        a.send('hello', [id]);
        await stage.until(`client ${id}`, 'message');
        stage.log('program', index, 'reached', id);
      }
    },
  },
  {
    title: 'ids with names of object members are unknown until they are registered',
    differs: ['D11'],
    expected: {
      original: {
        server: [
          ['connection'],
          ...OBJECT_NAMES.map((id) => [
            'error',
            `<Error: Unable to send message. Client "${id}" disconnected>`,
          ]),
        ],
      },
      ours: {
        server: [
          ['connection'],
          ...OBJECT_NAMES.map((id) => [
            'warn',
            `<Error: Unable to send message. Client "${id}" unknown>`,
          ]),
        ],
      },
    },
    async play(stage) {
      const server = await stage.server();
      const raw = await stage.raw(server);
      raw.send('m', OBJECT_NAMES);
      await stage.handled(raw);
    },
  },
  {
    title: '__proto__ is unknown until it is registered',
    differs: ['D11'],
    expected: {
      original: {
        server: [
          ['connection'],
          ['error', '<Error: Unable to send message. Client "__proto__" disconnected>'],
        ],
      },
      ours: {
        server: [
          ['connection'],
          ['warn', '<Error: Unable to send message. Client "__proto__" unknown>'],
        ],
      },
    },
    async play(stage) {
      const server = await stage.server();
      const raw = await stage.raw(server);
      raw.send('m', '__proto__');
      await stage.handled(raw);
    },
  },
  {
    title: '__proto__ is an id like any other',
    differs: ['D11'],
    expected: {
      original: {
        raw: [
          registered('"__proto__"'),
          message('"m"', '"__proto__"'),
          ['frame', '{"action":"unregistered","id":"__proto__"}'],
        ],
        after: [['still reachable']],
      },
      ours: {
        raw: [
          registered('"__proto__"'),
          message('"m"', '"__proto__"'),
          ['frame', '{"action":"unregistered","id":"__proto__"}'],
        ],
        after: [['unknown']],
      },
    },
    async play(stage) {
      const server = await stage.server();
      const raw = await stage.raw(server, 'raw', { register: '__proto__' });
      raw.send('m', '__proto__');
      await stage.until('raw', 'frame', 2);
      raw.frame({ action: 'unregister' });
      await stage.until('raw', 'frame', 3);
      const outcome = new Promise((resolve) => {
        server.on('warn', () => resolve('unknown'));
        server.on('error', () => resolve('still known'));
        raw.ws.on('message', () => resolve('still reachable'));
      });
      raw.send('again', '__proto__');
      stage.log('after', await outcome);
      stage.forget('server');
      const { raw: lines } = stage.recording();
      lines.splice(3);
    },
  },
  {
    title: 'an id that is neither a string nor a number is refused',
    differs: ['D11'],
    expected: {
      original: {
        raw: [
          registered('true'),
          registered('["x"]'),
          registered('{"y":1}'),
          registered('"after"'),
        ],
        server: [
          ['connection'],
          ['registered', true],
          ['registered', ['x']],
          ['registered', { y: 1 }],
          ['registered', 'after'],
        ],
      },
      ours: {
        raw: [registered('"after"')],
        server: [['connection'], ['error'], ['error'], ['error'], ['registered', 'after']],
      },
    },
    play: (stage) => refused(stage, [true, ['x'], { y: 1 }]),
  },
  {
    title: 'an id of more than 8,192 bytes is refused',
    differs: ['D11', 'D15'],
    expected: {
      original: {
        server: [
          ['registered', 3],
          ['error', 0],
        ],
      },
      ours: {
        server: [
          ['registered', 1],
          ['error', 2],
        ],
      },
    },
    async play(stage) {
      await refused(stage, ['x'.repeat(8193), 'é'.repeat(4097)]);
      const lines = stage.recording().server;
      const count = (event) => lines.filter(([name]) => name === event).length;
      const counts = ['registered', 'error'].map((event) => [event, count(event)]);
      lines.splice(0, lines.length, ...counts);
      stage.forget('raw');
    },
  },
  {
    title: 'receivers that are not strings are unknown under their text',
    async play(stage) {
      const server = await stage.server();
      const raw = await stage.raw(server, 'raw', { register: '5' });
      raw.frame('{"action":"send","message":"m","dest":[5,null,true,"5"]}');
      await stage.handled(raw);
      await raw.caughtUp('5');
    },
  },
];

// Registers each id on one connection. Error texts of 2.0 differ, so only their number counts.
async function refused(stage, ids) {
  const server = await stage.server();
  const raw = await stage.raw(server);
  for (const id of ids) raw.frame({ action: 'register', id });
  raw.frame({ action: 'register', id: 'after' });
  await stage.until('server', 'registered');
  await stage.when(
    () => (stage.recording().raw || []).some(([, text]) => text.includes('"after"')),
    'after',
  );
  for (const line of stage.recording().server) if (line[0] === 'error') line.splice(1);
}
