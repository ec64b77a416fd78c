'use strict';

// Requests of raw connections: acks of any kind, and the right to answer after registrations have changed.

// Three raw connections: asker a, receiver b and stranger c.
async function rawThree(stage) {
  const server = await stage.server();
  const a = await stage.raw(server, 'a', { register: 'a' });
  const b = await stage.raw(server, 'b', { register: 'b' });
  const c = await stage.raw(server, 'c', { register: 'c' });
  return { server, a, b, c };
}

const question = (dest, ack, message = 'm') => ({ action: 'send', message, dest, ack });
const answer = (ack, message) => ({ action: 'answer', ack, message });

// Recordings of the others while a stranger tries to answer: no trace of it.
const untouched = {
  b: [
    ['frame', '{"action":"registered","id":"b"}'],
    ['frame', '{"action":"message","message":"m","ack":"ack","from":"a"}'],
  ],
  c: [['frame', '{"action":"registered","id":"c"}']],
  server: ['a', 'b', 'c'].flatMap((id) => [['connection'], ['registered', id]]),
};

module.exports = [
  {
    title: 'an ack can be reused after its request was answered',
    async play(stage) {
      const { a, b } = await rawThree(stage);
      for (const round of [1, 2, 3]) {
        a.frame(question('b', 'again'));
        await stage.until('b', 'frame', 1 + round);
        b.frame(answer('again', round));
        await stage.until('a', 'frame', 1 + round);
      }
      b.frame(answer('again', 'late'));
      await stage.handled(b);
      await a.caughtUp('a');
    },
  },
  {
    title: 'an ack used twice by one asker while pending is answered once',
    async play(stage) {
      const { a, b } = await rawThree(stage);
      a.frame(question('b', 'same', 1));
      a.frame(question('b', 'same', 2));
      await stage.until('b', 'frame', 3);
      b.frame(answer('same', 'first'));
      b.frame(answer('same', 'second'));
      await stage.handled(b);
      await a.caughtUp('a');
    },
  },
  {
    title: 'an ack may be a number',
    async play(stage) {
      const { a, b } = await rawThree(stage);
      a.frame(question('b', 5));
      await stage.until('b', 'frame', 2);
      b.frame(answer(5, 'five'));
      await stage.until('a', 'frame', 2);
      b.frame(answer(5, 'late'));
      await stage.handled(b);
      await a.caughtUp('a');
    },
  },
  {
    title: 'an answer to a disconnected asker is dropped without an error',
    async play(stage) {
      const { server, a, b } = await rawThree(stage);
      a.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      a.close();
      await stage.until('server', 'unregistered');
      await stage.until('a', 'close');
      b.frame(answer('ack', 'too late'));
      await stage.handled(b);
      const next = await stage.raw(server, 'next a', { register: 'a' });
      b.frame(answer('ack', 'again'));
      await stage.handled(b);
      await next.caughtUp('a');
    },
  },
  {
    title: 'an answer is dropped when the asker has returned on a new connection',
    async play(stage) {
      const { server, a, b } = await rawThree(stage);
      a.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      a.close();
      await stage.until('server', 'unregistered');
      await stage.until('a', 'close');
      const next = await stage.raw(server, 'next a', { register: 'a' });
      b.frame(answer('ack', 'to the former'));
      await stage.handled(b);
      await next.caughtUp('a');
    },
  },
  {
    title: 'answers to an asker that has unregistered are dropped without an error',
    async play(stage) {
      const { a, b } = await rawThree(stage);
      a.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      a.frame({ action: 'unregister' });
      await stage.until('a', 'frame', 2);
      b.frame(answer('ack', 'x'));
      await stage.handled(b);
      await a.register('a');
      await a.caughtUp('a');
    },
  },
  {
    title: 'answers to an asker that never registered are dropped without an error',
    async play(stage) {
      const { server, b } = await rawThree(stage);
      const nobody = await stage.raw(server, 'nobody');
      nobody.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      b.frame(answer('ack', 'x'));
      await stage.handled(b);
      await nobody.register('somebody');
    },
  },
  {
    title: 'answers to an asker that registered only after asking are dropped without an error',
    async play(stage) {
      const { server, b } = await rawThree(stage);
      const late = await stage.raw(server, 'late');
      late.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      await late.register('late');
      b.frame(answer('ack', 'x'));
      await stage.handled(b);
      await late.caughtUp('late');
    },
  },
  {
    title:
      'answers to an asker that unregistered and registered again are dropped without an error',
    async play(stage) {
      const { a, b } = await rawThree(stage);
      a.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      a.frame({ action: 'unregister' });
      await stage.until('a', 'frame', 2);
      await a.register('a');
      b.frame(answer('ack', 'x'));
      await stage.handled(b);
      await a.caughtUp('a');
    },
  },
  {
    title: 'answers to an asker that registered the same id again meanwhile',
    async play(stage) {
      const { a, b } = await rawThree(stage);
      a.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      await a.register('a');
      b.frame(answer('ack', 'x'));
      await stage.handled(b);
      await a.caughtUp('a');
    },
  },
  {
    title: 'an answer of a connection that has unregistered arrives without from',
    async play(stage) {
      const { a, b } = await rawThree(stage);
      a.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      b.frame({ action: 'unregister' });
      await stage.until('b', 'frame', 3);
      b.frame(answer('ack', 'x'));
      await stage.until('a', 'frame', 2);
    },
  },
  {
    title: 'an answer of a connection that was not asked',
    differs: ['D2'],
    expected: {
      original: {
        a: [
          ['frame', '{"action":"registered","id":"a"}'],
          ['frame', '{"action":"answer","ack":"ack","from":"c","message":"of a stranger"}'],
        ],
        ...untouched,
      },
      ours: {
        a: [
          ['frame', '{"action":"registered","id":"a"}'],
          ['frame', '{"action":"answer","ack":"ack","from":"b","message":"of the one asked"}'],
        ],
        ...untouched,
      },
    },
    async play(stage) {
      const { a, b, c } = await rawThree(stage);
      a.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      c.frame(answer('ack', 'of a stranger'));
      await stage.handled(c);
      b.frame(answer('ack', 'of the one asked'));
      await stage.handled(b);
      await a.caughtUp('a');
    },
  },
  {
    title: 'an answer to an asker that has registered another id meanwhile',
    async play(stage) {
      const { a, b } = await rawThree(stage);
      a.frame(question('b', 'ack'));
      await stage.until('b', 'frame', 2);
      await a.register('other');
      b.frame(answer('ack', 'x'));
      await stage.handled(b);
      await a.caughtUp('other');
      // The server's events for the former id are the subject of another scenario (D3).
      stage.forget('server');
    },
  },
];
