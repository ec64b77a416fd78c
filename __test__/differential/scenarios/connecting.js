'use strict';

// Successful and failed connections: handshakes, refusals, and the events of the client.

// A client of a peer that answers its upgrade request with this text and then calls `then(socket)`.
async function answered(stage, text, then = (socket) => socket.end()) {
  const peer = await stage.tcpServer((socket) => {
    socket.write(text);
    then(socket);
  });
  await stage.client('a', peer, { until: 'close' });
}

const KEVOREE_ROUNDS = 3;

module.exports = [
  ...['127.0.0.1', 'localhost'].map((host) => ({
    title: `a refused connection to ${host} is an error with its code, then close(1006)`,
    async play(stage) {
      const port = await stage.freePort();
      const client = stage.connect('a', { port }, { host, name: 'client' });
      client.on('error', (error) => stage.log('program', error instanceof Error, error.code));
      await stage.until('client', 'close');
      // The text names the address that was tried last, which depends on the resolver.
      if (host === 'localhost') stage.forgetLast('client', 'error');
    },
  })),
  ...[200, 302, 400, 401, 404, 426, 500, 503].map((status) => ({
    title: `the HTTP answer ${status} is an error, then close(1006)`,
    play: (stage) => answered(stage, `HTTP/1.1 ${status} Whatever\r\nContent-Length: 0\r\n\r\n`),
  })),
  {
    title: 'an HTTP answer with a body and an open connection is an error, then close(1006)',
    play: (stage) =>
      answered(stage, 'HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nsorry', () => {}),
  },
  {
    title: 'a peer that hangs up instead of answering is an error, then close(1006)',
    play: (stage) => answered(stage, ''),
  },
  {
    title: 'a peer that hangs up in the middle of its answer is an error, then close(1006)',
    async play(stage) {
      await answered(stage, 'HTTP/1.1 101 Switching Pro', (socket) => socket.destroy());
    },
  },
  {
    title: 'a wrong Sec-WebSocket-Accept is an error, which is a string, and no close',
    async play(stage) {
      const peer = await stage.tcpServer((socket) => {
        socket.on('end', () => stage.log('peer', 'sees the end'));
        socket.write(
          'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
            'Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n',
        );
      });
      await stage.client('a', peer, { until: 'error' });
      await stage.until('peer', 'sees the end');
    },
  },
  {
    title: 'the first frames may arrive with the handshake in one segment, and in pieces',
    async play(stage) {
      const registered = stage.textFrame('{"action":"registered","id":"a"}');
      const message = stage.textFrame('{"action":"message","message":"hello","from":"b"}');
      const peer = await stage.tcpServer((socket, head) => {
        stage.upgrade(socket, head, [registered, message.subarray(0, 9)]);
        setImmediate(() => socket.write(message.subarray(9)));
      });
      await stage.client('a', peer, { until: 'message' });
    },
  },
  {
    title: 'the request of a client names host, version and path',
    async play(stage) {
      for (const path of [undefined, 'some', '/some/path', '/a?b=c']) {
        const wanted = [
          'host',
          'connection',
          'upgrade',
          'sec-websocket-version',
          'origin',
          'cookie',
        ];
        const peer = await stage.tcpServer((socket, head) => {
          const [line, ...headers] = head.trim().split('\r\n');
          const known = headers.map((header) => header.split(': '));
          const kept = known.map(([name, value]) => [name.toLowerCase(), value]);
          kept.sort();
          stage.log('peer', 'asked', line, ...kept.filter(([name]) => wanted.includes(name)));
          socket.destroy();
        });
        await stage.client('a', peer, { path, name: `client ${path}`, until: 'close' });
      }
    },
  },
  {
    title: 'the name localhost reaches an IPv4 server',
    async play(stage) {
      const server = await stage.server();
      await stage.client('a', server, { host: 'localhost' });
    },
  },
  {
    title: 'an unknown host name is an error, then close(1006)',
    async play(stage) {
      const client = stage.connect(
        'a',
        { port: 9 },
        { host: 'no-such-host.invalid', name: 'client' },
      );
      client.on('error', (error) => stage.log('program', error instanceof Error));
      await stage.until('client', 'close');
      // The error of the resolver depends on the network.
      stage.forgetLast('client', 'error');
    },
  },
  {
    title: 'a program that reconnects on error and on close creates two clients after one refusal',
    async play(stage) {
      const port = await stage.freePort();
      let made = 0;
      const connect = (round) => {
        if (round > KEVOREE_ROUNDS) return;
        const client = stage.connect('kevoree', { port }, { name: `client ${++made}` });
        client.on('error', () => connect(round + 1));
        client.on('close', () => connect(round + 1));
      };
      connect(1);
      const expected = 2 ** KEVOREE_ROUNDS - 1;
      for (let number = 1; number <= expected; number++)
        await stage.until(`client ${number}`, 'close');
      stage.log('program', 'made', made);
    },
  },
  {
    title: 'a program that reconnects on close is served by the next server on the port',
    async play(stage) {
      const peer = await stage.peer('first');
      const server = await stage.server();
      let made = 0;
      const connect = (target) => {
        const client = stage.connect('kevoree', target, { name: `client ${++made}` });
        client.once('close', () => made < 2 && connect(server));
      };
      connect(peer);
      (await peer.connection()).terminate();
      await stage.until('client 2', 'registered');
      stage.forget('first');
    },
  },
];
