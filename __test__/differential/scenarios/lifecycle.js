'use strict';

// The events of a client: their order and their arguments.

module.exports = [
  {
    title: 'a client opens, is registered, is unregistered and closes',
    async play(stage) {
      const server = await stage.server();
      const client = await stage.client('a', server);
      client.unregister();
      await stage.until('client a', 'unregistered');
      client.close();
      await stage.until('client a', 'close');
      await stage.client('b', server);
    },
  },
  {
    title: 'every event of a client comes with its own number of arguments',
    async play(stage) {
      const server = await stage.server();
      const client = stage.connect('a', server);
      for (const event of ['open', 'registered', 'unregistered', 'close']) {
        stage.countArguments(client, 'arguments', event);
      }
      await stage.until('client a', 'registered');
      client.unregister();
      await stage.until('client a', 'unregistered');
      client.close();
      await stage.until('client a', 'close');
    },
  },
  {
    title: 'every event of a server comes with its own number of arguments',
    async play(stage) {
      const server = await stage.server();
      // Those of the others: see difference D8.
      for (const event of ['unregistered', 'warn', 'error']) {
        stage.countArguments(server, 'arguments', event);
      }
      const raw = await stage.raw(server, 'raw', { register: 'a' });
      raw.frame({ action: 'send', dest: 'nobody', message: 1 });
      raw.frame({ action: 'nothing' });
      raw.frame({ action: 'unregister' });
      await stage.until('raw', 'frame', 2);
      raw.frame({ action: 'register', id: 'b' });
      await stage.until('raw', 'frame', 3);
      await stage.until('server', 'registered', 2);
    },
  },
  {
    title: 'a server emits connection, registered and, once, unregistered',
    async play(stage) {
      const server = await stage.server();
      const client = await stage.client('a', server);
      client.close();
      await stage.until('server', 'unregistered');
      await stage.client('b', server);
    },
  },
  {
    title: 'nothing is emitted before the current tick ends',
    async play(stage) {
      const server = await stage.server();
      let sameTick = true;
      const client = stage.connect('a', server);
      for (const event of ['open', 'registered', 'error', 'close']) {
        client.once(event, () => stage.log('program', event, sameTick ? 'same tick' : 'later'));
      }
      sameTick = false;
      await stage.until('client a', 'registered');
    },
  },
  {
    title: 'within one process, a server emits its events before its clients do',
    async play(stage) {
      const server = await stage.server();
      const seen = { connection: 0, registered: 0, unregistered: 0, warn: 0 };
      for (const event of Object.keys(seen)) {
        server.on(event, () => {
          seen[event]++;
        });
      }
      // How often the client was first.
      const early = { connection: 0, registered: 0, unregistered: 0, warn: 0 };
      const compare = (event, round) => {
        if (seen[event] < round) early[event]++;
      };
      for (let round = 1; round <= 50; round++) {
        const client = stage.connect('a', server, { name: `client ${round}` });
        client.on('open', () => compare('connection', round));
        client.on('registered', () => {
          compare('registered', round);
          client.send('m', ['nobody', 'a']);
        });
        client.on('message', () => {
          compare('warn', round);
          client.unregister();
        });
        client.on('unregistered', () => compare('unregistered', round));
        await stage.until(`client ${round}`, 'unregistered');
        await stage.until('server', 'unregistered', round);
        client.close();
        await stage.until(`client ${round}`, 'close');
        stage.forget(`client ${round}`);
      }
      stage.log('program', 'clients first', early);
      stage.forget('server');
    },
  },
  {
    title: 'listeners are called with the client as this, in the order they were added',
    async play(stage) {
      const server = await stage.server();
      const client = stage.connect('a', server, {});
      client.on('registered', function first() {
        stage.log('program', 'first', this === client);
      });
      client.on('registered', function second() {
        stage.log('program', 'second', this === client);
      });
      client.once('registered', () => stage.log('program', 'once'));
      await stage.until('program', 'once');
    },
  },
  {
    title: 'send works in the open listener, after the register frame',
    async play(stage) {
      const peer = await stage.peer();
      const client = stage.connect('a', peer);
      client.on('open', () => client.send('early', 'b'));
      await stage.until('peer', 'frame', 2);
    },
  },
  {
    title: 'close codes of a server reach the client, without a reason',
    async play(stage) {
      for (const code of [1000, 1001, 1011, 3000, 4001]) {
        const peer = await stage.peer(`peer ${code}`);
        await stage.client(`c${code}`, peer, { until: 'open' });
        const connection = await peer.connection();
        connection.close(code, 'because');
        await stage.until(`client c${code}`, 'close');
        await stage.until(`peer ${code}`, 'close');
      }
    },
  },
  {
    title: 'an empty close frame is a close with 1000',
    async play(stage) {
      const peer = await stage.tcpServer((socket, head) => {
        stage.upgrade(socket, head, [Buffer.from([0x88, 0x00])]);
        socket.end();
      });
      await stage.client('a', peer, { until: 'close' });
    },
  },
  {
    title: 'a lost connection is a close with 1006 and no error',
    async play(stage) {
      const peer = await stage.peer();
      await stage.client('a', peer, { until: 'open' });
      (await peer.connection()).terminate();
      await stage.until('client a', 'close');
      await stage.until('peer', 'close');
    },
  },
  {
    title: 'a reset connection is a close with 1006 and no error',
    async play(stage) {
      let accepted;
      const peer = await stage.tcpServer((socket, head) => {
        stage.upgrade(socket, head);
        accepted = socket;
      });
      await stage.client('a', peer, { until: 'open' });
      accepted.resetAndDestroy();
      await stage.until('client a', 'close');
    },
  },
  {
    title: 'close() is idempotent and emits close(1000) once',
    async play(stage) {
      const server = await stage.server();
      const client = await stage.client('a', server);
      client.close();
      client.close();
      await stage.until('client a', 'close');
      stage.attempt('program', 'close after close', () => client.close());
      await stage.until('server', 'unregistered');
      await stage.client('b', server);
    },
  },
  {
    title: 'send and unregister throw after close(), before and after the close event',
    async play(stage) {
      const server = await stage.server();
      const client = await stage.client('a', server);
      client.close();
      stage.attempt('closing', 'send', () => client.send('x', 'a'));
      stage.attempt('closing', 'send with callback', () => client.send('x', 'a', () => {}));
      stage.attempt('closing', 'unregister', () => client.unregister());
      await stage.until('client a', 'close');
      stage.attempt('closed', 'send', () => client.send('x', 'a'));
      stage.attempt('closed', 'send with callback', () => client.send('x', 'a', () => {}));
      stage.attempt('closed', 'unregister', () => client.unregister());
      stage.attempt('closed', 'send of what JSON refuses', () => client.send(1n, 'a'));
      await stage.until('server', 'unregistered');
    },
  },
  {
    title: 'send and unregister throw when the server has closed the connection',
    async play(stage) {
      const peer = await stage.peer();
      const client = await stage.client('a', peer, { until: 'open' });
      (await peer.connection()).close(4001);
      await stage.until('client a', 'close');
      await stage.until('peer', 'close');
      stage.attempt('closed', 'send', () => client.send('x', 'a'));
      stage.attempt('closed', 'unregister', () => client.unregister());
    },
  },
  {
    title: 'close() right after new emits close without a code, and nothing else',
    async play(stage) {
      const peer = await stage.peer();
      const client = stage.connect('a', peer);
      client.close();
      client.close();
      await stage.until('client a', 'close');
      // A later client proves that the first one is not registered after all.
      await stage.client('b', peer, { until: 'open' });
      // It does not matter whether the connection reached the handshake.
      stage.forget('peer');
      stage.forget('peer 2');
    },
  },
  {
    title: 'close() during the handshake emits close without a code',
    async play(stage) {
      let answer;
      const peer = await stage.tcpServer((socket, head) => {
        stage.log('peer', 'asked');
        answer = () => stage.upgrade(socket, head);
      });
      const client = stage.connect('a', peer);
      await stage.until('peer', 'asked');
      client.close();
      answer();
      await stage.until('client a', 'close');
    },
  },
  {
    title: 'close() right after new opens no connection, so that none fails',
    differs: ['D9'],
    expected: {
      original: {
        'client a': [['error', '<Error: connect ECONNREFUSED 127.0.0.1:<port>>']],
        'client b': [['open'], ['registered']],
        server: [['connection'], ['registered', 'b']],
      },
      ours: {
        'client a': [['close', '<undefined>']],
        'client b': [['open'], ['registered']],
        server: [['connection'], ['registered', 'b']],
      },
    },
    async play(stage) {
      const port = await stage.freePort();
      const client = stage.connect('a', { port });
      client.close();
      const told = () => (stage.recording()['client a'] || []).length > 0;
      await stage.when(told, 'client a to emit something');
      const server = await stage.server();
      await stage.client('b', server);
    },
  },
  {
    title: 'close() while a connection is failing emits the error and no close',
    differs: ['D17'],
    expected: {
      original: {
        'client a': [['error', '<Error: connect ECONNREFUSED 127.0.0.1:<port>>']],
        'client b': [['open'], ['registered']],
        server: [['connection'], ['registered', 'b']],
      },
      ours: {
        'client a': [['close', 1006]],
        'client b': [['open'], ['registered']],
        server: [['connection'], ['registered', 'b']],
      },
    },
    async play(stage) {
      const port = await stage.freePort();
      const client = stage.connect('a', { port });
      await new Promise(process.nextTick);
      client.close();
      const told = () => (stage.recording()['client a'] || []).length > 0;
      await stage.when(told, 'client a to emit something');
      const server = await stage.server();
      await stage.client('b', server);
    },
  },
  {
    title: 'messages that have arrived are delivered after close()',
    async play(stage) {
      const text = (message) => stage.textFrame(JSON.stringify({ action: 'message', message }));
      const peer = await stage.tcpServer((socket, head) => {
        stage.upgrade(socket, head, [text('one'), text('two'), text('three')]);
      });
      const client = stage.connect('a', peer);
      client.once('message', () => client.close());
      await stage.until('client a', 'message', 3);
    },
  },
  {
    title: 'off removes a listener',
    async play(stage) {
      const server = await stage.server();
      const client = await stage.client('a', server);
      const listener = (message) => stage.log('program', 'hears', message);
      client.on('message', listener);
      client.send('first', 'a');
      await stage.until('program', 'hears');
      client.off('message', listener);
      stage.attempt('program', 'off of a stranger', () => client.off('message', () => {}));
      client.send('second', 'a');
      await stage.until('client a', 'message', 2);
    },
  },
  {
    title: 'unregister keeps the connection open for sending',
    async play(stage) {
      const server = await stage.server();
      const client = await stage.client('a', server);
      await stage.client('b', server);
      client.unregister();
      await stage.until('client a', 'unregistered');
      client.send('from nobody', 'b');
      await stage.until('client b', 'message');
      client.unregister();
      client.send('to nobody', 'a');
      await stage.handled(client);
      await stage.caughtUp(await stage.client('c', server));
    },
  },
];
