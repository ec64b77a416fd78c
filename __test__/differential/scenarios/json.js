'use strict';

// JSON that other programs than JSON.stringify write. 1.7.2 parses and writes every message anew, 2.0 carries
// its text (D10). A listener in JavaScript receives the same value in most cases.

const asked = (message) => `{"action":"send","message":${message},"dest":"b"}`;
const told = (message) => ['frame', `{"action":"message","message":${message},"from":"a"}`];

// One raw message from a to b. 1.7.2 carries it as `original`, 2.0 unchanged.
function carried(title, message, original) {
  const recording = (text) => ({
    a: [['frame', '{"action":"registered","id":"a"}']],
    b: [['frame', '{"action":"registered","id":"b"}'], told(text)],
    server: [['connection'], ['registered', 'b'], ['connection'], ['registered', 'a']],
  });
  return {
    title,
    differs: ['D10'],
    expected: { original: recording(original), ours: recording(message) },
    async play(stage) {
      const server = await stage.server();
      const b = await stage.raw(server, 'b', { register: 'b' });
      const a = await stage.raw(server, 'a', { register: 'a' });
      a.frame(asked(message));
      await stage.until('b', 'frame', 2);
      await b.caughtUp('b');
    },
  };
}

// The values that a listener and the callback of a request receive for raw JSON.
async function heard(stage, messages) {
  const server = await stage.server();
  await stage.client('b', server);
  const a = await stage.raw(server, 'a', { register: 'a' });
  for (const message of messages) a.frame(asked(message));
  await stage.until('client b', 'message', messages.length);
}

module.exports = [
  carried('a number keeps its digits: 1.0', '1.0', '1'),
  carried('a number keeps its digits: 2^63', '9223372036854775808', '9223372036854776000'),
  carried('a number keeps its digits: 1e999', '[1e999,-1e999]', '[null,null]'),
  carried('a number keeps its digits: decimals', '0.1000000000000000055511151231257827', '0.1'),
  carried(
    'a number keeps its digits: exponents',
    '[1E2,1e-7,-0,100000000000000000000000]',
    '[100,1e-7,0,1e+23]',
  ),
  carried(
    'a number keeps its digits: the doubles of the Java client',
    '{"x":5.0,"y":[1.50]}',
    '{"x":5,"y":[1.5]}',
  ),
  carried(
    'members keep their order: keys that look like integers',
    '{"b":1,"2":2,"1":1}',
    '{"1":1,"2":2,"b":1}',
  ),
  carried('members given twice are kept', '{"a":1,"a":2}', '{"a":2}'),
  carried('spaces are kept', '{ "a" : [ 1 , 2 ] }', '{"a":[1,2]}'),
  carried('escapes are kept', '"\\u003c\\/\\u00e9\\u2028\\ud83d\\ude00"', '"</é\u2028😀"'),
  {
    title: 'members keep their order',
    async play(stage) {
      const server = await stage.server();
      await stage.raw(server, 'b', { register: 'b' });
      const a = await stage.raw(server, 'a', { register: 'a' });
      a.frame(
        asked(
          '{"z":1,"a":{"y":1,"b":2},"m":[{"d":1,"c":2}],"__proto__":{"x":1},"constructor":1,"":0}',
        ),
      );
      await stage.until('b', 'frame', 2);
    },
  },
  {
    title: 'lone surrogates stay escaped',
    async play(stage) {
      const server = await stage.server();
      await stage.raw(server, 'b', { register: 'b' });
      const a = await stage.raw(server, 'a', { register: 'a' });
      a.frame(asked('"\\ud800 and \\udfff"'));
      a.frame(asked('{"\\ud83d":"\\ude00\\ud83d"}'));
      await stage.until('b', 'frame', 3);
    },
  },
  {
    title: 'a listener receives equal values for different JSON texts of a value',
    play: (stage) =>
      heard(stage, [
        '1.0',
        '9223372036854775808',
        '[1E2,1e-7]',
        '{"b":1,"2":2,"1":1}',
        '{"a":1,"a":2}',
        ' { "a" : 1 } ',
        '"\\u003c\\/\\ud83d\\ude00\\ud800"',
        '{"__proto__":5}',
      ]),
  },
  {
    title: 'a listener receives Infinity where 1.7.2 made it null',
    differs: ['D10'],
    expected: {
      original: {
        a: [['frame', '{"action":"registered","id":"a"}']],
        'client b': [['open'], ['registered'], ['message', [null, null], 'no answer wanted']],
        server: [['connection'], ['registered', 'b'], ['connection'], ['registered', 'a']],
      },
      ours: {
        a: [['frame', '{"action":"registered","id":"a"}']],
        'client b': [
          ['open'],
          ['registered'],
          ['message', ['<Infinity>', '<-Infinity>'], 'no answer wanted'],
        ],
        server: [['connection'], ['registered', 'b'], ['connection'], ['registered', 'a']],
      },
    },
    play: (stage) => heard(stage, ['[1e999,-1e999]']),
  },
  {
    title: 'answers are carried unchanged, too',
    differs: ['D10'],
    expected: {
      original: {
        a: [
          ['frame', '{"action":"registered","id":"a"}'],
          ['frame', '{"action":"answer","ack":"ack","from":"b","message":{"1":1,"x":5}}'],
        ],
        b: [
          ['frame', '{"action":"registered","id":"b"}'],
          ['frame', '{"action":"message","message":1,"ack":"ack","from":"a"}'],
        ],
        server: [['connection'], ['registered', 'b'], ['connection'], ['registered', 'a']],
      },
      ours: {
        a: [
          ['frame', '{"action":"registered","id":"a"}'],
          ['frame', '{"action":"answer","ack":"ack","from":"b","message":{"x":5.0,"1":1}}'],
        ],
        b: [
          ['frame', '{"action":"registered","id":"b"}'],
          ['frame', '{"action":"message","message":1,"ack":"ack","from":"a"}'],
        ],
        server: [['connection'], ['registered', 'b'], ['connection'], ['registered', 'a']],
      },
    },
    async play(stage) {
      const server = await stage.server();
      const b = await stage.raw(server, 'b', { register: 'b' });
      const a = await stage.raw(server, 'a', { register: 'a' });
      a.frame('{"action":"send","message":1,"dest":"b","ack":"ack"}');
      await stage.until('b', 'frame', 2);
      b.frame('{"action":"answer","ack":"ack","message":{"x":5.0,"1":1}}');
      await stage.until('a', 'frame', 2);
    },
  },
];
