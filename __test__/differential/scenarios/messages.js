'use strict';

// Messages between clients: to one, to many, to oneself, to an unknown id.

async function pair(stage, options) {
  const server = await stage.server();
  const a = await stage.client('a', server, options);
  const b = await stage.client('b', server, options);
  return { server, a, b };
}

module.exports = [
  {
    title: 'values arrive as JSON represents them',
    async play(stage) {
      const { a, b } = await pair(stage);
      const values = [
        'text',
        '',
        0,
        -0,
        1.5,
        1e21,
        true,
        false,
        null,
        [],
        {},
        [1, [2, [3, { deep: null }]]],
        { b: 1, a: 2, 10: 'ten', 9: 'nine' },
        new Date(0),
        Number.NaN,
        [undefined, () => {}],
        { gone: undefined },
        'é 日本 😀 \0 \n " \\ / \u2028',
        '\ud83d',
      ];
      for (const value of values) a.send(value, 'b');
      await stage.until('client b', 'message', values.length);
      const keys = [];
      b.on('message', (message) => keys.push(...Object.keys(message)));
      a.send({ z: 1, 2: 'two', a: 1, 1: 'one' }, 'b');
      await stage.until('client b', 'message', values.length + 1);
      stage.log('program', 'keys', keys);
    },
  },
  {
    title: 'messages of one client to another arrive in order',
    async play(stage) {
      const { a, b } = await pair(stage);
      for (let number = 0; number < 300; number++) a.send(number, number % 3 ? 'b' : ['b']);
      await stage.until('client b', 'message', 300);
      await stage.caughtUp(b);
    },
  },
  {
    title: 'a message of undefined is an error of the server and is not delivered',
    async play(stage) {
      const { a, b } = await pair(stage);
      a.send(undefined, 'b');
      a.send(() => {}, 'b');
      a.send('x');
      a.send();
      await stage.handled(a);
      await stage.caughtUp(b);
    },
  },
  {
    title: 'a dest of the wrong kind is an error of the server',
    async play(stage) {
      const { a, b } = await pair(stage);
      for (const dest of [null, 5, true, { id: 'b' }, new Map()]) a.send('x', dest);
      await stage.handled(a);
      await stage.caughtUp(b);
    },
  },
  {
    title: 'an array of receivers is served in order, with a warning for each unknown one',
    async play(stage) {
      const { a, b } = await pair(stage);
      a.send('m', ['nobody', 'b', 'a', 'no one', 'b']);
      await stage.handled(a);
      await stage.caughtUp(a);
      await stage.caughtUp(b);
    },
  },
  {
    title: 'a receiver listed twice gets the message twice',
    async play(stage) {
      const { a, b } = await pair(stage);
      a.send('m', ['b', 'b']);
      a.send('n', ['b', 'b', 'b']);
      await stage.until('client b', 'message', 5);
      await stage.caughtUp(b);
    },
  },
  {
    title: 'an empty array of receivers does nothing, with and without a callback',
    async play(stage) {
      const { a, b } = await pair(stage);
      a.send('m', []);
      a.send('m', [], () => stage.log('program', 'answered'));
      await stage.handled(a);
      await stage.caughtUp(b);
    },
  },
  {
    title: 'a client may send to itself',
    async play(stage) {
      const { a } = await pair(stage);
      a.send('m', 'a');
      a.send('n', ['a', 'b']);
      await stage.until('client a', 'message', 2);
      await stage.until('client b', 'message');
    },
  },
  {
    title: 'each message to an unknown receiver is one warning',
    async play(stage) {
      const { a } = await pair(stage);
      a.send('m', 'nobody');
      a.send('m', ['nobody', 'nobody']);
      a.send('m', '');
      a.send('m', 'nobody', () => stage.log('program', 'answered'));
      await stage.handled(a);
    },
  },
  {
    title: 'a disconnected client is unknown, and reachable again when it returns',
    async play(stage) {
      const { server, a, b } = await pair(stage);
      b.close();
      await stage.until('server', 'unregistered');
      a.send('lost', 'b');
      await stage.handled(a);
      await stage.client('b', server, { name: 'second b' });
      a.send('found', 'b');
      await stage.until('second b', 'message');
      await stage.until('client b', 'close');
    },
  },
  {
    title: 'clients of two servers are separate',
    async play(stage) {
      const first = await stage.server({ name: 'first' });
      const second = await stage.server({ name: 'second', path: 'second' });
      const a = await stage.client('a', first);
      await stage.client('b', second, { path: 'second' });
      a.send('m', 'b');
      await stage.until('first', 'warn');
    },
  },
  {
    title: 'messages without a listener are lost, later ones are received',
    async play(stage) {
      const { server, a } = await pair(stage);
      const deaf = new stage.WSMsgBroker('deaf', '127.0.0.1', server.port);
      stage.cleanup(() => deaf.close());
      await stage.until('server', 'registered', 3);
      a.send('lost', 'deaf');
      a.send('lost, too', 'deaf', () => stage.log('program', 'answered'));
      a.on('message', (_message, response) => response?.send('yes'));
      // The answer to this request arrives after the two messages.
      await new Promise((resolve) => {
        deaf.send('question', 'a', resolve);
      });
      deaf.on('message', (message) => stage.log('deaf', 'hears', message));
      a.send('heard', 'deaf');
      await stage.until('deaf', 'hears');
    },
  },
  {
    title: 'messages sent before close() arrive',
    async play(stage) {
      const { server, a } = await pair(stage);
      const c = await stage.client('c', server);
      for (let number = 0; number < 50; number++) c.send(number, 'a');
      c.close();
      await stage.until('client c', 'close');
      await stage.until('server', 'unregistered');
      await stage.caughtUp(a);
    },
  },
  {
    title: 'listeners can be added and removed while messages arrive',
    async play(stage) {
      const { a, b } = await pair(stage);
      const log = (name) => (message) => stage.log('program', name, message);
      const always = log('always');
      const removed = (message) => {
        stage.log('program', 'removed', message);
        b.removeListener('message', removed);
        b.once('message', log('added'));
      };
      b.on('message', always);
      b.on('message', removed);
      b.prependOnceListener('message', log('prepended'));
      for (const message of [1, 2, 3]) a.send(message, 'b');
      await stage.until('client b', 'message', 3);
    },
  },
  {
    title: 'message listeners get their arguments',
    differs: ['D8'],
    expected: {
      original: {
        a: [['registered']],
        b: [
          ['registered'],
          ['message', 1, 'plain'],
          ['message', 2, 'question', '<response>'],
          ['message', 1, 'from nobody'],
        ],
      },
      ours: {
        a: [['registered']],
        b: [
          ['registered'],
          ['message', 3, 'plain', null, 'a'],
          ['message', 3, 'question', '<response>', 'a'],
          ['message', 3, 'from nobody', null, '<undefined>'],
        ],
      },
    },
    async play(stage) {
      const server = new stage.WSMsgBroker.Server(0);
      stage.cleanup(() => server.close());
      const port = await stage.portOf(server);
      const make = (id) => {
        const client = new stage.WSMsgBroker(id, '127.0.0.1', port);
        stage.cleanup(() => client.close());
        client.on('error', (error) => stage.log(id, 'error', error));
        client.on('registered', (...args) => stage.log(id, 'registered', ...args));
        client.on('message', (...args) => stage.log(id, 'message', args.length, ...args));
        return client;
      };
      make('b');
      await stage.until('b', 'registered');
      const a = make('a');
      await stage.until('a', 'registered');
      a.send('plain', 'b');
      a.send('question', 'b', () => {});
      a.unregister();
      a.send('from nobody', 'b');
      await stage.until('b', 'message', 3);
    },
  },
  {
    title: 'send before open is queued and returns true',
    differs: ['D9'],
    expected: {
      original: {
        early: [
          ['send', 'throws', '<Error: not opened>'],
          ['send with callback', 'throws', '<Error: not opened>'],
          ['unregister', 'throws', '<Error: not opened>'],
          [
            'send with a callback that is none',
            'throws',
            '<Error: Client.send(data, callback) expects "callback" to be a Function>',
          ],
        ],
        'client a': [['open'], ['registered']],
        peer: [
          ['accepts', '/'],
          ['frame', '{"action":"register","id":"a"}'],
        ],
      },
      ours: {
        early: [
          ['send', 'returns', true],
          ['send with callback', 'returns', true],
          ['unregister', 'works'],
          [
            'send with a callback that is none',
            'throws',
            '<Error: Client.send(data, callback) expects "callback" to be a Function>',
          ],
        ],
        'client a': [['open'], ['registered']],
        peer: [
          ['accepts', '/'],
          ['frame', '{"action":"register","id":"a"}'],
          ['frame', '{"action":"send","message":"one","dest":"b"}'],
          ['frame', '{"action":"send","message":"two","dest":["b"],"ack":"<ack 1>"}'],
          ['frame', '{"action":"unregister","id":"a"}'],
        ],
      },
    },
    async play(stage) {
      const peer = await stage.peer();
      const client = stage.connect('a', peer);
      const value = (result) => result;
      stage.attempt('early', 'send', () => client.send('one', 'b'), value);
      stage.attempt(
        'early',
        'send with callback',
        () => client.send('two', ['b'], () => {}),
        value,
      );
      stage.attempt('early', 'unregister', () => client.unregister());
      stage.attempt(
        'early',
        'send with a callback that is none',
        () => client.send('x', 'b', 5),
        value,
      );
      const connection = await peer.connection();
      connection.frame({ action: 'registered', id: 'a' });
      await stage.until('client a', 'registered');
      await stage.handled(client);
    },
  },
  {
    title: 'return values of methods',
    differs: ['D9', 'D13'],
    expected: {
      original: {
        client: [
          ['send', 'returns', '<undefined>'],
          ['off', 'returns', '<undefined>'],
          ['unregister', 'returns', '<undefined>'],
          ['close', 'returns', '<undefined>'],
          ['close again', 'returns', '<undefined>'],
        ],
        server: [
          ['close', 'returns', '<undefined>'],
          ['close again', 'returns', '<undefined>'],
        ],
      },
      ours: {
        client: [
          ['send', 'returns', true],
          ['off', 'returns', 'the client'],
          ['unregister', 'returns', '<undefined>'],
          ['close', 'returns', '<promise>'],
          ['close again', 'returns', '<promise>'],
        ],
        server: [
          ['close', 'returns', '<promise>'],
          ['close again', 'returns', '<promise>'],
        ],
      },
    },
    async play(stage) {
      const server = await stage.server({ name: 'events' });
      const client = await stage.client('a', server);
      const value = (result) => (result === client ? 'the client' : result);
      stage.attempt('client', 'send', () => client.send('m', 'a'), value);
      stage.attempt('client', 'off', () => client.off('message', () => {}), value);
      stage.attempt('client', 'unregister', () => client.unregister(), value);
      await stage.until('client a', 'unregistered');
      stage.attempt('client', 'close', () => client.close(), value);
      stage.attempt('client', 'close again', () => client.close(), value);
      await stage.until('client a', 'close');
      stage.attempt('server', 'close', () => server.close(), value);
      stage.attempt('server', 'close again', () => server.close(), value);
      stage.forget('events');
      stage.forget('client a');
    },
  },
];
