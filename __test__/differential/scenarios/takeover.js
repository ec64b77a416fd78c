'use strict';

// One id on several connections (D1, D2), and several ids on one connection (D3).

const registered = (id) => ['frame', `{"action":"registered","id":"${id}"}`];
const message = (text, from) => [
  'frame',
  `{"action":"message","message":"${text}","from":"${from}"}`,
];
const warned = (id) => ['warn', `<Error: Unable to send message. Client "${id}" unknown>`];

// Two connections register x, and a sends to it.
async function contested(stage) {
  const server = await stage.server();
  const a = await stage.raw(server, 'a', { register: 'a' });
  const first = await stage.raw(server, 'first', { register: 'x' });
  const second = await stage.raw(server, 'second', { register: 'x' });
  return { server, a, first, second };
}

const CONTESTED = [
  ['connection'],
  ['registered', 'a'],
  ['connection'],
  ['registered', 'x'],
  ['connection'],
  ['registered', 'x'],
];

module.exports = [
  {
    title: 'the newest registration of an id receives its messages, and the former none',
    async play(stage) {
      const { a, first } = await contested(stage);
      a.send('for the newest', 'x');
      await stage.until('second', 'frame', 2);
      first.ping('still there');
      await stage.until('first', 'pong');
    },
  },
  {
    title: 'an id is unknown after its newest owner disconnects',
    differs: ['D1'],
    expected: {
      // The former registration is still in the tables and frees the id a second time.
      original: {
        a: [registered('a')],
        first: [registered('x'), ['close', 1000, '']],
        second: [registered('x'), ['close', 1000, '']],
        server: [...CONTESTED, ['unregistered', 'x'], warned('x'), ['unregistered', 'x']],
      },
      ours: {
        a: [registered('a')],
        first: [registered('x'), ['close', 1000, '']],
        second: [registered('x'), ['close', 1000, '']],
        server: [...CONTESTED, ['unregistered', 'x'], warned('x')],
      },
    },
    async play(stage) {
      const { server, a, first, second } = await contested(stage);
      second.close(1000);
      await stage.until('second', 'close');
      await stage.until('server', 'unregistered');
      a.send('m', 'x');
      await stage.until('server', 'warn');
      first.close(1000);
      await stage.until('first', 'close');
      await stage.passBy(server);
    },
  },
  {
    title: 'the new owner keeps the id when the replaced connection disconnects',
    differs: ['D1'],
    expected: {
      original: {
        a: [registered('a')],
        first: [registered('x'), ['close', 1000, '']],
        second: [registered('x')],
        server: [...CONTESTED, ['unregistered', 'x'], warned('x')],
      },
      ours: {
        a: [registered('a')],
        first: [registered('x'), ['close', 1000, '']],
        second: [registered('x'), message('still yours', 'a')],
        server: CONTESTED,
      },
    },
    async play(stage) {
      const { server, a, first } = await contested(stage);
      first.close(1000);
      await stage.until('first', 'close');
      await stage.passBy(server);
      a.send('still yours', 'x');
      await stage.handled(a);
    },
  },
  {
    title: 'the new owner keeps the id when the replaced connection unregisters',
    differs: ['D1'],
    expected: {
      original: {
        a: [registered('a')],
        first: [
          registered('x'),
          ['frame', '{"action":"unregistered","id":"x"}'],
          registered('first'),
        ],
        second: [registered('x')],
        server: [...CONTESTED, ['unregistered', 'x'], ['registered', 'first'], warned('x')],
      },
      ours: {
        a: [registered('a')],
        first: [registered('x'), registered('first')],
        second: [registered('x'), message('still yours', 'a')],
        server: [...CONTESTED, ['registered', 'first']],
      },
    },
    async play(stage) {
      const { a, first } = await contested(stage);
      first.frame({ action: 'unregister' });
      await first.register('first');
      await stage.until('server', 'registered', 4);
      a.send('still yours', 'x');
      await stage.handled(a);
    },
  },
  {
    title: 'messages of the replaced connection have no sender',
    differs: ['D1'],
    expected: {
      original: {
        a: [registered('a'), message('who am I', 'x')],
        first: [registered('x')],
        second: [registered('x')],
        server: CONTESTED,
      },
      ours: {
        a: [registered('a'), ['frame', '{"action":"message","message":"who am I"}']],
        first: [registered('x')],
        second: [registered('x')],
        server: CONTESTED,
      },
    },
    async play(stage) {
      const { first } = await contested(stage);
      first.send('who am I', 'a');
      await stage.until('a', 'frame', 2);
    },
  },
  {
    title: 'the replaced connection takes its id back',
    differs: ['D1'],
    expected: {
      original: {
        a: [registered('a')],
        first: [registered('x'), registered('x')],
        second: [registered('x'), ['close', 1000, '']],
        server: [...CONTESTED, ['registered', 'x'], ['unregistered', 'x'], warned('x')],
      },
      ours: {
        a: [registered('a')],
        first: [registered('x'), registered('x'), message('mine again', 'a')],
        second: [registered('x'), ['close', 1000, '']],
        server: [...CONTESTED, ['registered', 'x']],
      },
    },
    async play(stage) {
      const { server, a, first, second } = await contested(stage);
      await first.register('x');
      await stage.until('server', 'registered', 4);
      second.close(1000);
      await stage.until('second', 'close');
      await stage.passBy(server);
      a.send('mine again', 'x');
      await stage.handled(a);
    },
  },
  {
    title: 'an answer goes to the connection that asked, not to the new owner of its id',
    differs: ['D2'],
    expected: {
      original: {
        a: [
          registered('a'),
          ['frame', '{"action":"message","message":"question","ack":"ack","from":"x"}'],
        ],
        first: [registered('x')],
        second: [
          registered('x'),
          ['frame', '{"action":"answer","ack":"ack","from":"a","message":"for who asked"}'],
        ],
        server: CONTESTED,
      },
      ours: {
        a: [
          registered('a'),
          ['frame', '{"action":"message","message":"question","ack":"ack","from":"x"}'],
        ],
        first: [
          registered('x'),
          ['frame', '{"action":"answer","ack":"ack","from":"a","message":"for who asked"}'],
        ],
        second: [registered('x')],
        server: CONTESTED,
      },
    },
    async play(stage) {
      const server = await stage.server();
      const a = await stage.raw(server, 'a', { register: 'a' });
      const first = await stage.raw(server, 'first', { register: 'x' });
      first.frame({ action: 'send', message: 'question', dest: 'a', ack: 'ack' });
      await stage.until('a', 'frame', 2);
      const second = await stage.raw(server, 'second', { register: 'x' });
      a.frame({ action: 'answer', ack: 'ack', message: 'for who asked' });
      await stage.handled(a);
      await second.caughtUp('x');
      // A pong follows everything written before the ping was read.
      first.ping('first');
      await stage.until('first', 'pong');
      stage.forgetLast('first', 'pong');
    },
  },
  {
    title: 'a pending ack cannot be taken over by another connection',
    differs: ['D2'],
    expected: {
      original: {
        a: [registered('a')],
        b: [
          registered('b'),
          ['frame', '{"action":"message","message":"mine","ack":"ack","from":"a"}'],
          ['frame', '{"action":"message","message":"stolen","ack":"ack","from":"thief"}'],
        ],
        thief: [
          registered('thief'),
          ['frame', '{"action":"answer","ack":"ack","from":"b","message":"secret"}'],
        ],
        errors: [[0]],
      },
      ours: {
        a: [
          registered('a'),
          ['frame', '{"action":"answer","ack":"ack","from":"b","message":"secret"}'],
        ],
        b: [
          registered('b'),
          ['frame', '{"action":"message","message":"mine","ack":"ack","from":"a"}'],
        ],
        thief: [registered('thief')],
        errors: [[1]],
      },
    },
    async play(stage) {
      const server = await stage.server();
      const a = await stage.raw(server, 'a', { register: 'a' });
      const b = await stage.raw(server, 'b', { register: 'b' });
      const thief = await stage.raw(server, 'thief', { register: 'thief' });
      a.frame({ action: 'send', message: 'mine', dest: 'b', ack: 'ack' });
      await stage.until('b', 'frame', 2);
      thief.frame({ action: 'send', message: 'stolen', dest: 'b', ack: 'ack' });
      await stage.handled(thief);
      await b.caughtUp('b');
      b.frame({ action: 'answer', ack: 'ack', message: 'secret' });
      await stage.handled(b);
      await a.caughtUp('a');
      await thief.caughtUp('thief');
      stage.log('errors', stage.recording().server.filter(([event]) => event === 'error').length);
      stage.forget('server');
    },
  },
  {
    title: 'a connection that registers another id releases the former',
    differs: ['D3'],
    expected: {
      original: {
        a: [registered('a')],
        raw: [registered('one'), registered('two'), message('to one', 'a'), message('to two', 'a')],
        server: [
          ['connection'],
          ['registered', 'a'],
          ['connection'],
          ['registered', 'one'],
          ['registered', 'two'],
        ],
      },
      ours: {
        a: [registered('a')],
        raw: [registered('one'), registered('two'), message('to two', 'a')],
        server: [
          ['connection'],
          ['registered', 'a'],
          ['connection'],
          ['registered', 'one'],
          ['unregistered', 'one'],
          ['registered', 'two'],
          warned('one'),
        ],
      },
    },
    async play(stage) {
      const server = await stage.server();
      const a = await stage.raw(server, 'a', { register: 'a' });
      const raw = await stage.raw(server, 'raw', { register: 'one' });
      await raw.register('two');
      await stage.until('server', 'registered', 3);
      a.send('to one', 'one');
      a.send('to two', 'two');
      await stage.handled(a);
      await raw.caughtUp('two');
    },
  },
  {
    title: 'all ids of a connection are released when it closes',
    differs: ['D3'],
    expected: {
      original: {
        a: [registered('a')],
        raw: [registered('one'), registered('two'), ['close', 1000, '']],
        server: [
          ['connection'],
          ['registered', 'a'],
          ['connection'],
          ['registered', 'one'],
          ['registered', 'two'],
          ['unregistered', 'two'],
          ['error', '<Error: Unable to send message. Client "one" disconnected>'],
          warned('two'),
        ],
      },
      ours: {
        a: [registered('a')],
        raw: [registered('one'), registered('two'), ['close', 1000, '']],
        server: [
          ['connection'],
          ['registered', 'a'],
          ['connection'],
          ['registered', 'one'],
          ['unregistered', 'one'],
          ['registered', 'two'],
          ['unregistered', 'two'],
          warned('one'),
          warned('two'),
        ],
      },
    },
    async play(stage) {
      const server = await stage.server();
      const a = await stage.raw(server, 'a', { register: 'a' });
      const raw = await stage.raw(server, 'raw', { register: 'one' });
      await raw.register('two');
      raw.close(1000);
      await stage.until('raw', 'close');
      await stage.when(
        () =>
          stage.recording().server.some(([event, id]) => event === 'unregistered' && id === 'two'),
        'two to be unregistered',
      );
      a.send('m', ['one', 'two']);
      await stage.handled(a);
    },
  },
];
