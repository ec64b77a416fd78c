'use strict';

// Frames that a client writes, and how it reads the frames of a server.

// Sends each text to a client of a peer. A message afterwards proves that the texts were read without further
// effect.
async function told(stage, frames, then = () => {}) {
  const peer = await stage.peer();
  const client = await stage.client('a', peer, { until: 'open' });
  const connection = await peer.connection();
  for (const frame of frames) connection.frame(frame);
  await connection.heard();
  await then(client, connection);
}

module.exports = [
  {
    title: 'the frames of a client, byte by byte',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      await peer.connection();
      client.send('text', 'b');
      client.send({ deep: [1, 2.5, true, null] }, ['b', 'c']);
      client.send('question', 'b', () => {});
      client.send('question', ['b'], () => {});
      client.unregister();
      await stage.handled(client);
    },
  },
  ...[7, 1.5, 0, '', null, undefined, false, 'quote " and \\ and \n and é and 😀'].map((id) => ({
    title: `the register frame of the id ${JSON.stringify(id)}`,
    async play(stage) {
      const peer = await stage.peer();
      await stage.client(id, peer, { name: 'client', until: 'open' });
      await peer.connection();
    },
  })),
  {
    title: 'an ack is 20 letters and digits, and unique',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      for (let number = 0; number < 20; number++) client.send(number, 'b', () => {});
      await stage.until('peer', 'frame', 21);
      // The recorder numbers only acks of that form: 20 different ones end with <ack 20>.
    },
  },
  {
    title: 'arguments of send are serialized without checks',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      const calls = [
        [],
        ['x'],
        [undefined, 'b'],
        ['x', undefined],
        ['x', null],
        ['x', 5],
        ['x', { id: 'b' }],
        ['x', []],
        ['x', ['b', 5, null, undefined, ['c']]],
        [null, 'b'],
        [() => {}, 'b'],
        [Symbol('x'), 'b'],
        [new Date(0), 'b'],
        [{ toJSON: () => 'made by toJSON' }, 'b'],
        [Number.NaN, 'b'],
        [-0, 'b'],
        ['\ud800 and \u2028 and \0', 'b'],
        [{ a: undefined, b: () => {}, 2: 'two', 1: 'one' }, 'b'],
        [Buffer.from('hi'), 'b'],
        [new Map([[1, 2]]), 'b'],
      ];
      calls.forEach((args, number) => {
        stage.attempt('program', `send ${number}`, () => client.send(...args));
      });
      await stage.handled(client);
    },
  },
  {
    title: 'the callback of send is checked first, even on a closed client',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      await peer.connection();
      const values = [undefined, null, 0, '', false, 'text', 5, true, {}, [], /x/];
      const circular = {};
      circular.self = circular;
      for (const value of values) {
        stage.attempt('open', JSON.stringify(value), () => client.send('x', 'b', value));
      }
      stage.attempt('open', 'circular', () => client.send(circular, 'b', 'no function'));
      stage.attempt('open', 'class', () => client.send('x', 'b', class {}));
      stage.attempt('open', 'async', () => client.send('x', 'b', async () => {}));
      await stage.handled(client);
      client.close();
      await stage.until('client a', 'close');
      await stage.until('peer', 'close');
      stage.attempt('closed', 'text', () => client.send('x', 'b', 'text'));
      stage.attempt('closed', 'object', () => client.send('x', 'b', {}));
    },
  },
  {
    title: 'send serializes at once: exceptions reach the caller, later changes are not sent',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      const circular = {};
      circular.self = circular;
      stage.attempt('program', 'circular', () => {
        try {
          client.send(circular, 'b');
        } catch (error) {
          // The rest of the text describes the circle in the words of the engine.
          throw new TypeError(error.message.split('\n')[0]);
        }
      });
      stage.attempt('program', 'bigint', () => client.send(5n, 'b'));
      const own = new RangeError('own');
      const throwing = {
        toJSON() {
          throw own;
        },
      };
      stage.attempt('program', 'toJSON', () => client.send(throwing, 'b'));
      stage.attempt('program', 'dest', () => client.send('x', throwing));
      const message = { text: 'before' };
      const dest = ['b'];
      client.send(message, dest);
      message.text = 'after';
      dest.push('c');
      await stage.handled(client);
    },
  },
  {
    title: 'a client emits errors for invalid JSON, null and binary frames, and stays connected',
    play: (stage) =>
      told(
        stage,
        ['', 'hello', '{"action":"message"', 'null', '{} {}', '\ufeff{}', "{'a':1}"],
        async (_, peer) => {
          peer.frame(Buffer.from('{"action":"message","message":"binary"}'));
          peer.frame(Buffer.alloc(0));
          await peer.heard();
        },
      ),
  },
  {
    title: 'a client emits errors for unknown actions, and stays connected',
    play: (stage) =>
      told(stage, [
        '{}',
        '[]',
        '5',
        '"text"',
        'true',
        '{"action":"foo"}',
        '{"action":null}',
        '{"action":5}',
        '{"action":""}',
        '{"action":{}}',
        '{"action":"send","dest":"a","message":1}',
        '{"action":"register","id":"a"}',
      ]),
  },
  {
    title: 'a client reads an action in an array as its text',
    play: (stage) =>
      told(stage, ['{"action":["message"],"message":"in an array"}', '{"action":["foo","bar"]}']),
  },
  {
    title: 'a client emits errors for answers without a request',
    play: (stage) =>
      told(stage, [
        '{"action":"answer","ack":"unknown","from":"b","message":1}',
        '{"action":"answer","from":"b","message":1}',
        '{"action":"answer","ack":null,"from":"b","message":1}',
        '{"action":"answer","ack":5}',
        '{"action":"answer"}',
      ]),
  },
  {
    title: 'a client accepts messages without any of their members',
    play: (stage) =>
      told(stage, [
        '{"action":"message"}',
        '{"action":"message","from":"b"}',
        '{"action":"message","message":null,"from":"b"}',
        '{"action":"message","message":"m","ack":""}',
        '{"action":"message","message":"m","ack":null}',
        '{"action":"message","message":"m","ack":0}',
        '{"action":"message","message":"m","ack":false}',
        '{"action":"message","message":"m","ack":"x"}',
        '{"from":"b","message":"members in another order","more":1,"action":"message"}',
        ' { "action" : "message" ,\n"message" : "with spaces" } ',
        '{"action":"message","message":"last wins","message":"of two"}',
        '{"\\u0061ction":"message","message":"escaped member"}',
      ]),
  },
  {
    title: 'a client accepts registered and unregistered at any time',
    play: (stage) =>
      told(stage, [
        '{"action":"registered"}',
        '{"action":"registered","id":"a"}',
        '{"action":"registered","id":"other"}',
        '{"action":"unregistered","id":"a"}',
        '{"action":"unregistered"}',
        '{"action":"unregistered","id":null}',
        '{"action":"unregistered","id":{"deep":[1]}}',
      ]),
  },
  {
    title: 'a request on the wire: the answer frame of a client',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      const connection = await peer.connection();
      client.on('message', (message, response) => {
        if (response) for (const answer of message) response.send(answer);
      });
      const answers = ['yes', null, '', 0, false, { deep: [] }];
      connection.frame({ action: 'message', message: answers, ack: 'the-ack', from: 'b' });
      connection.frame({ action: 'message', message: [1], ack: 5, from: 'b' });
      connection.frame({ action: 'message', message: [2], ack: true, from: 'b' });
      connection.frame({ action: 'message', message: [3], ack: { deep: 'ack' }, from: 'b' });
      await stage.until('peer', 'frame', 1 + answers.length + 3);
    },
  },
  {
    title: 'answers reach the callback of their request in any order',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      const connection = await peer.connection();
      const acks = [];
      connection.ws.on('message', (text) => acks.push(JSON.parse(text).ack));
      for (const question of ['one', 'two', 'three']) {
        client.send(question, 'b', (...args) =>
          stage.log(question, 'answered', args.length, ...args),
        );
      }
      await stage.until('peer', 'frame', 4);
      const [one, two, three] = acks;
      connection.frame({ action: 'answer', ack: three, from: 'b', message: 3 });
      connection.frame({ action: 'answer', ack: one, from: 'c', message: null });
      connection.frame({ action: 'answer', ack: two, from: 5, message: { a: 1 } });
      await connection.heard();
    },
  },
  {
    title: 'an answer without from or message is an error of the client',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      const connection = await peer.connection();
      const acks = [];
      connection.ws.on('message', (text) => acks.push(JSON.parse(text).ack));
      for (const question of ['one', 'two', 'three']) {
        client.send(question, 'b', () => stage.log(question, 'answered'));
      }
      await stage.until('peer', 'frame', 4);
      const [one, two, three] = acks;
      connection.frame({ action: 'answer', ack: one, from: 'b' });
      connection.frame({ action: 'answer', ack: two, message: 'm' });
      connection.frame({ action: 'answer', ack: three });
      await connection.heard();
    },
  },
  {
    title: 'a server that answers twice calls the callback once',
    differs: ['D6'],
    expected: {
      original: {
        'client a': [['open']],
        program: [
          ['answered', 'first'],
          ['answered', 'second'],
        ],
      },
      ours: {
        'client a': [
          ['open'],
          ['error', '<Error: Unable to find callback method for a and ack = <ack 1>>'],
        ],
        program: [['answered', 'first']],
      },
    },
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      const connection = await peer.connection();
      const asked = new Promise((resolve) => {
        connection.ws.on('message', (text) => resolve(JSON.parse(text).ack));
      });
      client.send('question', 'b', (_, answer) => stage.log('program', 'answered', answer));
      const ack = await asked;
      connection.frame({ action: 'answer', ack, from: 'b', message: 'first' });
      connection.frame({ action: 'answer', ack, from: 'b', message: 'second' });
      await connection.heard();
      stage.forget('peer');
    },
  },
  {
    title: 'pings of a server are answered, fragments of messages are joined',
    async play(stage) {
      const peer = await stage.peer();
      await stage.client('a', peer, { until: 'open' });
      const connection = await peer.connection();
      connection.ping('are you there');
      await stage.until('peer', 'pong');
      const socket = connection.ws._socket;
      socket.write(stage.bytes(0x01, '{"action":"message",'));
      connection.ping('in between');
      socket.write(stage.bytes(0x00, '"message":'));
      socket.write(stage.bytes(0x80, '"joined"}'));
      await stage.until('client a', 'message');
      await stage.until('peer', 'pong', 2);
    },
  },
];
