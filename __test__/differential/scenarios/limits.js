'use strict';

// Limits that 1.7.2 does not have (D15), and use below them.

module.exports = [
  {
    title: 'a message to 1,000 receivers is served',
    async play(stage) {
      const server = await stage.server();
      const raw = await stage.raw(server, 'raw', { register: 'a' });
      raw.send('m', Array(1000).fill('a'));
      await raw.caughtUp('a');
      const { raw: lines } = stage.recording();
      stage.log('program', 'frames', lines.length, new Set(lines.map(String)).size);
      stage.forget('raw');
    },
  },
  {
    title: 'a message to 65,537 receivers is refused',
    differs: ['D15'],
    expected: {
      original: {
        server: [
          ['warnings', 65537],
          ['errors', 0],
        ],
      },
      ours: {
        server: [
          ['warnings', 0],
          ['errors', 1],
        ],
      },
    },
    async play(stage) {
      const server = new stage.WSMsgBroker.Server(0);
      stage.cleanup(() => server.close());
      const port = await stage.portOf(server);
      let warnings = 0;
      let errors = 0;
      server.on('error', () => {
        errors++;
      });
      const last = new Promise((resolve) => {
        server.on('warn', (error) => {
          if (error.message.includes('the last one')) resolve();
          else warnings++;
        });
      });
      const raw = await stage.raw({ port }, 'raw');
      raw.send('m', Array(65537).fill('x'));
      raw.send('m', 'the last one');
      await stage.awaits(last, 'the last warning');
      stage.log('server', 'warnings', warnings);
      stage.log('server', 'errors', errors);
    },
  },
  {
    title: 'a burst of 2,000 messages to a reading client arrives in full',
    async play(stage) {
      const server = await stage.server();
      const a = await stage.client('a', server);
      const b = stage.connect('b', server);
      b.removeAllListeners('message');
      let next = 0;
      let inOrder = true;
      const all = new Promise((resolve) => {
        b.on('message', ({ number }) => {
          inOrder = inOrder && number === next;
          if (++next === 2000) resolve();
        });
      });
      await stage.until('client b', 'registered');
      for (let number = 0; number < 2000; number++) a.send({ number, text: 'x'.repeat(100) }, 'b');
      await stage.awaits(all, '2,000 messages');
      stage.log('program', 'messages', next, inOrder);
    },
  },
  {
    title: 'hundreds of requests may be open at once',
    async play(stage) {
      const server = await stage.server();
      const a = await stage.client('a', server);
      const b = stage.connect('b', server);
      b.removeAllListeners('message');
      const responses = [];
      b.on('message', (number, response) => {
        responses.push([number, response]);
        if (responses.length < 500) return;
        for (const [question, late] of responses.reverse()) late.send(question * 2);
      });
      await stage.until('client b', 'registered');
      let right = 0;
      let answers = 0;
      const all = new Promise((resolve) => {
        for (let number = 0; number < 500; number++) {
          a.send(number, 'b', (from, answer) => {
            if (from === 'b' && answer === number * 2) right++;
            if (++answers === 500) resolve();
          });
        }
      });
      await stage.awaits(all, '500 answers');
      stage.log('program', 'answers', answers, right);
    },
  },
];
