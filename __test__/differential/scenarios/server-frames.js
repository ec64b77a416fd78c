'use strict';

// Frames that a server writes, and how it reads the frames of clients, with raw clients on both sides.
// Registering a client again proves that it received no other frame: the answer would arrive after it.

// Sends each frame from an unregistered connection. No frame may come back.
async function told(stage, frames) {
  const server = await stage.server();
  const raw = await stage.raw(server);
  for (const frame of frames) raw.frame(frame);
  await raw.register('after');
  return server;
}

// Sends each frame from a connection registered as a to one registered as b.
async function exchanged(stage, frames) {
  const server = await stage.server();
  const receiver = await stage.raw(server, 'receiver', { register: 'b' });
  const sender = await stage.raw(server, 'sender', { register: 'a' });
  for (const frame of frames) sender.frame(frame);
  await stage.handled(sender);
  await receiver.caughtUp('b');
  await sender.caughtUp('a');
}

module.exports = [
  {
    title: 'the frames of a server, byte by byte',
    async play(stage) {
      const server = await stage.server();
      const b = await stage.raw(server, 'b', { register: 'b' });
      const a = await stage.raw(server, 'a', { register: 'a' });
      const nobody = await stage.raw(server, 'nobody');
      a.frame({ action: 'send', message: { text: 'hi' }, dest: 'b' });
      await stage.until('b', 'frame', 2);
      a.frame({ action: 'send', message: 'question', dest: ['b'], ack: 'ack-1' });
      await stage.until('b', 'frame', 3);
      b.frame({ action: 'answer', ack: 'ack-1', message: { yes: true }, from: 'a liar' });
      await stage.until('a', 'frame', 2);
      nobody.frame({ action: 'send', message: 'from nobody', dest: 'b' });
      await stage.until('b', 'frame', 4);
      a.frame({ action: 'unregister', id: 'b' });
      await stage.until('a', 'frame', 3);
      a.frame({ action: 'send', message: 'unregistered', dest: 'b', ack: 'ack-2' });
      await stage.until('b', 'frame', 5);
      b.frame({ action: 'unregister' });
      await stage.until('b', 'frame', 6);
    },
  },
  {
    title: 'unknown members are ignored and not passed on, and from is not trusted',
    play: (stage) =>
      exchanged(stage, [
        { action: 'send', message: 'm', dest: 'b', from: 'a liar', more: 1 },
        { from: null, dest: ['b'], extra: { action: 'unregister' }, message: 'm', action: 'send' },
        { action: 'send', message: { action: 'unregister' }, dest: 'b', id: 'x' },
      ]),
  },
  {
    title: 'the members of a frame may have any order, spacing and escapes',
    play: (stage) =>
      exchanged(stage, [
        '{"dest":"b","message":"order","action":"send"}',
        ' \t\r\n{ "action" : "send" , "dest" : [ "b" ] , "message" : "spaces" } \n',
        '{"\\u0061ction":"s\\u0065nd","d\\u0065st":"\\u0062","message":"escapes"}',
        '{"action":"unregister","action":"send","dest":"x","dest":"b","message":1,"message":"last wins"}',
      ]),
  },
  {
    title: 'every kind of JSON value is a message',
    play: (stage) =>
      exchanged(
        stage,
        [
          '"text"',
          '""',
          '0',
          '-1.5',
          'true',
          'false',
          'null',
          '[]',
          '{}',
          '[1,[2,[3]]]',
          '{"a":{"b":null}}',
          '"\\"\\\\"',
        ].map((message) => `{"action":"send","message":${message},"dest":"b"}`),
      ),
  },
  {
    title: 'a missing message or dest is an error of the server',
    play: (stage) =>
      told(stage, [
        '{"action":"send"}',
        '{"action":"send","dest":"after"}',
        '{"action":"send","message":"m"}',
        '{"action":"send","dest":null}',
      ]),
  },
  {
    title: 'a dest that is neither string nor array is an error of the server',
    play: (stage) =>
      told(
        stage,
        ['null', '5', 'true', '{}', '{"0":"after","length":1}'].map(
          (dest) => `{"action":"send","message":"m","dest":${dest}}`,
        ),
      ),
  },
  {
    title: 'a register frame without an id is an error of the server',
    play: (stage) =>
      told(
        stage,
        ['', ',"id":null', ',"id":""', ',"id":0', ',"id":false'].map(
          (id) => `{"action":"register"${id}}`,
        ),
      ),
  },
  {
    title: 'an answer without an ack is an error of the server',
    play: (stage) =>
      told(
        stage,
        ['', ',"ack":null', ',"ack":""', ',"ack":0', ',"ack":false'].map(
          (ack) => `{"action":"answer","message":1${ack}}`,
        ),
      ),
  },
  {
    title: 'an answer to an unknown ack is dropped without an error',
    play: (stage) =>
      told(stage, [
        '{"action":"answer","ack":"unknown","message":1,"from":"x"}',
        '{"action":"answer","ack":"unknown"}',
        '{"action":"answer","ack":5,"message":1}',
      ]),
  },
  {
    title: 'unregister without a registration does nothing',
    play: (stage) =>
      told(stage, ['{"action":"unregister"}', '{"action":"unregister","id":"after"}']),
  },
  {
    title: 'text that is not JSON is an error of the server, and the connection stays open',
    play: (stage) =>
      told(stage, [
        '',
        'hello',
        '{',
        '{"action":"send"',
        "{'a':1}",
        '[1,]',
        '{} {}',
        '\ufeff{}',
        '\0',
        'undefined',
        '{"a":"\n"}',
      ]),
  },
  {
    title: 'JSON null is an error of the server, and the connection stays open',
    play: (stage) => told(stage, ['null', ' null ']),
  },
  {
    title: 'a binary frame is an error of the server, whatever its content',
    play: (stage) =>
      told(stage, [
        Buffer.from('{"action":"register","id":"binary"}'),
        Buffer.from([0xff, 0x00]),
        Buffer.alloc(0),
      ]),
  },
  {
    title: 'unknown actions are errors of the server, and the connection stays open',
    play: (stage) =>
      told(stage, [
        '{}',
        '[]',
        '5',
        '"text"',
        'true',
        '{"action":"foo"}',
        '{"action":""}',
        '{"action":null}',
        '{"action":5}',
        '{"action":false}',
        '{"action":{}}',
        '{"action":"Register","id":"case"}',
        '{"action":" register","id":"space"}',
        '{"action":"message","message":"of a server"}',
        '{"action":"quote \\" and é"}',
      ]),
  },
  {
    title: 'a server reads an action in an array as its text',
    play: (stage) => told(stage, ['{"action":["send"]}', '{"action":["foo","bar"]}']),
  },
  {
    title: 'ids of all kinds of text arrive unchanged',
    async play(stage) {
      const server = await stage.server();
      const ids = [
        'a b',
        'é',
        '😀',
        '"quoted"',
        'back\\slash',
        'new\nline',
        '\0',
        '\u2028',
        'a.b.*.>',
        '日本',
        ' ',
        '0',
        'null',
      ];
      const sender = await stage.raw(server, 'sender', { register: 'sender' });
      for (const id of ids) {
        const raw = await stage.raw(server, `raw ${JSON.stringify(id)}`, { register: id });
        sender.send('hello', [id]);
        await stage.until(raw.name, 'frame', 2);
        raw.send('hello back', 'sender');
      }
      await stage.until('sender', 'frame', 1 + ids.length);
      sender.send('to nobody', '😀 "nobody" \\');
      await stage.handled(sender);
    },
  },
  {
    title: 'an id may be 8,192 bytes long',
    async play(stage) {
      const server = await stage.server();
      const id = 'x'.repeat(8192);
      const raw = await stage.raw(server, 'raw', { register: id });
      raw.send('hello', id);
      await stage.until('raw', 'frame', 2);
    },
  },
  {
    title: 'a falsy ack requests no answer',
    play: (stage) =>
      exchanged(
        stage,
        ['""', 'null', '0', 'false'].map(
          (ack) => `{"action":"send","message":"m","dest":"b","ack":${ack}}`,
        ),
      ),
  },
  {
    title: 'an ack may be any text',
    async play(stage) {
      const server = await stage.server();
      const b = await stage.raw(server, 'b', { register: 'b' });
      const a = await stage.raw(server, 'a', { register: 'a' });
      const acks = ['x', 'cafe-cafe-cafe', 'quote " and \\', 'é😀\n', '7', 'x'.repeat(200)];
      for (const [number, ack] of acks.entries()) {
        a.frame({ action: 'send', message: 'm', dest: 'b', ack });
        await stage.until('b', 'frame', 2 + number);
        b.frame({ action: 'answer', ack, message: number });
        await stage.until('a', 'frame', 2 + number);
      }
    },
  },
  {
    title: 'frames as the Java client writes them',
    async play(stage) {
      const server = await stage.server();
      const b = await stage.raw(server, 'b', { register: 'b' });
      const a = await stage.raw(server, 'a', { register: 'a' });
      a.frame(
        '{"action":"send","ack":"c0ffee00-0000-4000-8000-000000000000","message":"ask","dest":["b"]}',
      );
      await stage.until('b', 'frame', 2);
      b.frame(
        '{"action":"answer","ack":"c0ffee00-0000-4000-8000-000000000000","message":{"ok":true},"from":"b"}',
      );
      await stage.until('a', 'frame', 2);
      a.frame('{"action":"unregister","id":"a"}');
      await stage.until('a', 'frame', 3);
    },
  },
  {
    title: 'a long message passes in both directions',
    async play(stage) {
      const server = await stage.server();
      const sender = await stage.client('sender', server);
      const receiver = stage.connect('receiver', server, { name: 'receiver' });
      receiver.removeAllListeners('message');
      await stage.until('receiver', 'registered');
      const text = 'long é '.repeat(300_000);
      receiver.on('message', (message, response) => {
        stage.log('receiver', 'message', message.length, message === text);
        response.send(message + message);
      });
      sender.send(text, 'receiver', (from, answer) => {
        stage.log('sender', 'answer', from, answer.length, answer === text + text);
      });
      await stage.until('sender', 'answer');
    },
  },
  {
    title: 'nesting of 2,000 levels passes',
    async play(stage) {
      const server = await stage.server();
      const text = `${'['.repeat(1000)}${'{"a":'.repeat(1000)}1${'}'.repeat(1000)}${']'.repeat(1000)}`;
      const b = await stage.raw(server, 'b', { register: 'b' });
      const a = await stage.raw(server, 'a', { register: 'a' });
      a.frame(`{"action":"send","message":${text},"dest":"b"}`);
      await stage.until('b', 'frame', 2);
      const client = stage.connect('client', server);
      client.removeAllListeners('message');
      client.on('message', (message) =>
        stage.log('client', 'message', JSON.stringify(message) === text),
      );
      await stage.until('client client', 'registered');
      b.frame(`{"action":"send","message":${text},"dest":"client"}`);
      await stage.until('client', 'message');
    },
  },
  {
    title: 'after unregister, the same connection can register again',
    async play(stage) {
      const server = await stage.server();
      const raw = await stage.raw(server, 'raw', { register: 'one' });
      raw.frame({ action: 'unregister' });
      await stage.until('raw', 'frame', 2);
      await raw.register('two');
      raw.send('m', ['one', 'two']);
      await stage.until('raw', 'frame', 4);
      raw.close(1000);
      await stage.until('raw', 'close');
      await stage.until('server', 'unregistered', 2);
    },
  },
  {
    title: 'registering the same id twice on one connection confirms twice and ends once',
    async play(stage) {
      const server = await stage.server();
      const raw = await stage.raw(server, 'raw', { register: 'same' });
      await raw.register('same');
      raw.send('m', 'same');
      await stage.until('raw', 'frame', 3);
      raw.close(1000);
      await stage.until('raw', 'close');
      await stage.until('server', 'unregistered');
      const other = await stage.raw(server, 'other');
      other.send('m', 'same');
      await stage.handled(other);
    },
  },
];
