'use strict';

// The life of a server: construction, close, and its port afterwards.

const SETTLED = ['connection', 'registered'];

// The events of a server after its clients had connected, in any order.
function ends(stage, name = 'server') {
  const lines = stage.recording()[name] || [];
  const later = lines.filter(([event]) => !SETTLED.includes(event));
  lines.splice(0, lines.length, ...later.sort());
}

module.exports = [
  {
    title: 'server.close() ends its clients',
    differs: ['D13'],
    expected: {
      original: {
        'client a': [['open'], ['registered'], ['close', 1006]],
        'client b': [['open'], ['registered'], ['close', 1006]],
        raw: [['close', 1006]],
        server: [
          ['unregistered', 'a'],
          ['unregistered', 'b'],
        ],
      },
      ours: {
        'client a': [['open'], ['registered'], ['close', 1001]],
        'client b': [['open'], ['registered'], ['close', 1001]],
        raw: [['close', 1001]],
        server: [
          ['unregistered', 'a'],
          ['unregistered', 'b'],
        ],
      },
    },
    async play(stage) {
      const server = await stage.server();
      await stage.client('a', server);
      await stage.client('b', server);
      const raw = await stage.raw(server, 'nobody');
      raw.ws.on('close', (code) => stage.log('raw', 'close', code));
      server.close();
      for (const name of ['client a', 'client b', 'raw']) await stage.until(name, 'close');
      await stage.until('server', 'unregistered', 2);
      stage.forget('nobody');
      ends(stage);
    },
  },
  {
    title: 'wss is null after close(), which may be called again and emits nothing',
    async play(stage) {
      const server = await stage.server();
      server.on('close', () => stage.log('server', 'close event'));
      stage.log('server', 'wss', server.wss === null);
      server.close();
      stage.log('server', 'wss', server.wss === null);
      stage.attempt('server', 'close again', () => server.close());
      stage.attempt('server', 'close again', () => server.close());
      const other = await stage.server({ name: 'other' });
      await stage.client('a', other);
    },
  },
  {
    title: 'the port is free in the tick of close()',
    // A process that is being forked holds the sockets of 1.7.2 for a moment. No other test forks in an
    // isolated one.
    isolated: true,
    async play(stage) {
      const first = await stage.server({ name: 'first' });
      await stage.client('a', first);
      first.close();
      const second = await stage.server({ name: 'second', port: first.port });
      stage.log('program', 'same port', second.port === first.port);
      await stage.client('b', second);
      await stage.until('first', 'unregistered');
      await stage.until('client a', 'close');
      // The close code is the subject of another scenario (D13).
      stage.forget('client a');
    },
  },
  {
    title: 'close() right after construction leaves the port free',
    // A process that is being forked holds the sockets of 1.7.2 for a moment. No other test forks in an
    // isolated one.
    isolated: true,
    async play(stage) {
      const port = await stage.freePort();
      const { Server } = stage.WSMsgBroker;
      for (const round of [1, 2, 3]) {
        const server = stage.watchServer(new Server(port), `short ${round}`);
        stage.attempt('program', `close ${round}`, () => server.close());
      }
      const server = await stage.server({ port });
      await stage.client('a', server);
    },
  },
  {
    title: 'a client is refused after server.close()',
    async play(stage) {
      const server = await stage.server();
      const { port } = server;
      server.close();
      await stage.client('a', { port }, { until: 'close' });
    },
  },
  {
    title: 'a server without any listener works',
    async play(stage) {
      const server = new stage.WSMsgBroker.Server(0);
      stage.cleanup(() => server.close());
      const port = await stage.portOf(server);
      const a = await stage.client('a', { port });
      a.send('m', ['nobody', 'a']);
      await stage.until('client a', 'message');
    },
  },
  {
    title: 'listeners may be added to and removed from a server at any time',
    async play(stage) {
      const server = new stage.WSMsgBroker.Server(0);
      stage.cleanup(() => server.close());
      const port = await stage.portOf(server);
      const a = await stage.client('a', { port });
      const first = (error) => stage.log('server', 'warn', error.message);
      server.on('warn', first);
      a.send('m', 'one');
      await stage.until('server', 'warn');
      server.removeListener('warn', first);
      a.send('m', 'two');
      a.send('m', 'a');
      await stage.until('client a', 'message');
      server.once('warn', first);
      a.send('m', 'three');
      await stage.until('server', 'warn', 2);
    },
  },
  {
    title: 'server.close() in a listener of the server',
    async play(stage) {
      const server = await stage.server();
      server.on('registered', () => server.close());
      stage.connect('a', server);
      await stage.until('client a', 'close');
      await stage.until('server', 'unregistered');
      // The code is the subject of another scenario (D13). Whether registered still arrives is not defined.
      stage.forget('client a');
    },
  },
  {
    title: 'a port in use with an error listener',
    isolated: true,
    differs: ['D4'],
    expected: {
      original: {
        process: [['uncaught', 'EADDRINUSE']],
        first: [['connection'], ['registered', 'a']],
      },
      ours: {
        second: [['error', 'EADDRINUSE', true]],
        first: [['connection'], ['registered', 'a']],
      },
    },
    async play(stage) {
      process.on('uncaughtException', (error) => stage.log('process', 'uncaught', error.code));
      const first = await stage.server({ name: 'first' });
      let sameTick = true;
      const second = new stage.WSMsgBroker.Server(first.port);
      stage.cleanup(() => second.close());
      const noticed = new Promise((resolve) => {
        process.once('uncaughtException', resolve);
        second.once('error', resolve);
      });
      second.on('error', (error) => stage.log('second', 'error', error.code, !sameTick));
      sameTick = false;
      await stage.awaits(noticed, 'the port in use to be noticed');
      await stage.client('a', first);
      stage.forget('client a');
    },
  },
  {
    title: 'a client that connects and leaves repeatedly is registered each time',
    async play(stage) {
      const server = await stage.server();
      for (const round of [1, 2, 3, 4, 5]) {
        const client = await stage.client('a', server, { name: `client ${round}` });
        client.close();
        await stage.until(`client ${round}`, 'close');
        await stage.until('server', 'unregistered', round);
      }
    },
  },
  {
    title: 'ttl is a public number that can be set',
    async play(stage) {
      const server = await stage.server();
      stage.log('server', 'ttl', server.ttl);
      server.ttl = 5000;
      stage.log('server', 'ttl', server.ttl);
    },
  },
  {
    title: 'a request that is not answered within ttl is forgotten',
    async play(stage) {
      const server = await stage.server();
      server.ttl = 20;
      const a = await stage.raw(server, 'a', { register: 'a' });
      const b = await stage.raw(server, 'b', { register: 'b' });
      a.frame({ action: 'send', message: 'm', dest: 'b', ack: 'ack' });
      await stage.until('b', 'frame', 2);
      // Time is the subject here: many times the ttl, so that it has certainly passed.
      await new Promise((resolve) => setTimeout(resolve, 600));
      b.frame({ action: 'answer', ack: 'ack', message: 'too late' });
      await stage.handled(b);
      await a.caughtUp('a');
    },
  },
];
