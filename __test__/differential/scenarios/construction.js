'use strict';

// All ways in which 1.x programs construct clients and servers.

const { EventEmitter } = require('node:events');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const fs = require('node:fs');
const util = require('node:util');
const { setImmediate } = require('node:timers/promises');

const { frame, request } = require('../frames');

const kind = (value) => (value === null ? 'null' : typeof value);

module.exports = [
  ...[
    [undefined, undefined],
    [undefined, '/'],
    [null, ''],
    ['', null],
    ['/', undefined],
    ['some', '/some'],
    ['/some', 'some'],
    ['/some/path', 'some/path'],
    ['/a%20b', '/a b'],
  ].map(([ofServer, ofClient]) => ({
    title: `a server at ${util.inspect(ofServer)} serves a client at ${util.inspect(ofClient)}`,
    async play(stage) {
      const server = await stage.server({ path: ofServer });
      stage.log('server', 'options.path', server.wss.options.path);
      await stage.client('a', server, { path: ofClient });
    },
  })),
  {
    title: 'a query after the path does not matter to the server',
    async play(stage) {
      const server = await stage.server({ path: 'some' });
      await stage.client('a', server, { path: 'some?token=1' });
    },
  },
  {
    title: 'ports may be strings',
    async play(stage) {
      const port = await stage.freePort();
      const server = stage.watchServer(new stage.WSMsgBroker.Server(String(port)));
      stage.log(
        'server',
        'options.port',
        kind(server.wss.options.port),
        server.wss.options.port === String(port),
      );
      await stage.portOf(server);
      await stage.client('a', String(port), {});
    },
  },
  {
    title: 'wss.options are set right after construction',
    async play(stage) {
      const port = await stage.freePort();
      const server = stage.watchServer(new stage.WSMsgBroker.Server(port, 'here'));
      const { options } = server.wss;
      stage.log('server', 'options', options.host, options.port === port, options.path);
      stage.log('server', 'ttl', server.ttl);
      await stage.portOf(server);
    },
  },
  {
    title: 'clients may be constructed in the tick of their server',
    async play(stage) {
      const port = await stage.freePort();
      stage.watchServer(new stage.WSMsgBroker.Server(port));
      const client = await stage.client('a', { port });
      stage.attempt('program', 'send', () => client.send('x', 'a'));
      await stage.until('client a', 'message');
    },
  },
  {
    title: 'a server without a port throws',
    async play(stage) {
      const { Server } = stage.WSMsgBroker;
      stage.attempt('program', 'new Server()', () => new Server());
      stage.attempt('program', 'new Server(null)', () => new Server(null));
      stage.attempt('program', 'new Server(undefined, path)', () => new Server(undefined, '/x'));
    },
  },
  {
    title: 'a server with a port out of range throws',
    async play(stage) {
      const { Server } = stage.WSMsgBroker;
      for (const port of [65536, 70000, -1, '99999']) {
        stage.attempt('program', `new Server(${util.inspect(port)})`, () => {
          try {
            return new Server(port);
          } catch (error) {
            stage.log('program', 'code', error.code);
            throw error;
          }
        });
      }
    },
  },
  {
    title: 'a port that is not a number is the name of a Unix socket',
    isolated: true,
    async play(stage) {
      const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
      stage.cleanup(() => fs.rmSync(folder, { recursive: true, force: true }));
      process.chdir(folder);
      const server = stage.watchServer(new stage.WSMsgBroker.Server('broker.sock', 'some'));
      stage.log('server', 'options', server.wss.options.port, server.wss.options.path);
      while (!fs.existsSync('broker.sock')) await setImmediate();
      const tcp = await stage.tcp('broker.sock');
      tcp.write(request('/some'));
      tcp.write(frame(0x81, Buffer.from('{"action":"register","id":"a"}'), { masked: true }));
      const text = await tcp.received((received) => received.includes('"registered"'));
      stage.log('tcp', text.split('\r\n')[0], text.slice(text.indexOf('{')));
      await stage.until('server', 'registered');
    },
  },
  {
    title: 'a server listens on IPv4 only',
    async play(stage) {
      const server = await stage.server();
      for (const host of ['127.0.0.1', '::1']) {
        const socket = net.connect(server.port, host);
        const outcome = new Promise((resolve) => {
          socket.on('connect', () => resolve('connected'));
          socket.on('error', (error) => resolve(error.code));
        });
        stage.log('program', host, await outcome);
        socket.destroy();
      }
    },
  },
  {
    title: 'clients and servers are event emitters with the methods of 1.x',
    async play(stage) {
      const { WSMsgBroker } = stage;
      const server = await stage.server();
      const client = await stage.client('a', server);
      stage.log('client', client instanceof EventEmitter, client instanceof WSMsgBroker);
      stage.log('server', server instanceof EventEmitter, server instanceof WSMsgBroker.Server);
      for (const name of [
        'send',
        'unregister',
        'close',
        'off',
        'on',
        'once',
        'removeListener',
        'emit',
      ]) {
        stage.log('client', name, kind(client[name]));
      }
      for (const name of ['close', 'on', 'emit']) stage.log('server', name, kind(server[name]));
      stage.log('client', 'readyState', client.readyState);
      stage.log('client', 'own events', client.eventNames().length > 0);
    },
  },
  {
    title: 'client.id is the given value',
    async play(stage) {
      const peer = await stage.peer();
      for (const id of ['a', '', 7, 0, null, undefined]) {
        const client = await stage.client(id, peer, { name: util.inspect(id), until: 'open' });
        stage.log(util.inspect(id), 'id', client.id, client.id === id);
      }
      stage.cleanup(() => peer.close());
      for (let number = 1; number <= 6; number++)
        stage.forget(number === 1 ? 'peer' : `peer ${number}`);
    },
  },
  {
    title: 'ES6 classes can extend clients and servers',
    async play(stage) {
      const { WSMsgBroker } = stage;
      class MyServer extends WSMsgBroker.Server {
        constructor() {
          super(0, 'mine');
          this.mine = true;
        }
      }
      class MyClient extends WSMsgBroker {
        constructor(port) {
          super('mine', '127.0.0.1', port, 'mine');
          this.extra = 1;
        }

        hello() {
          this.send(`hello from ${this.id}`, 'mine');
        }
      }
      const server = stage.watchServer(new MyServer());
      const port = await stage.portOf(server);
      const client = stage.watchClient(new MyClient(port), 'client');
      await stage.until('client', 'registered');
      client.hello();
      await stage.until('client', 'message');
      stage.log('client', client instanceof MyClient, client instanceof WSMsgBroker, client.extra);
      stage.log('server', server instanceof MyServer, server.mine);
    },
  },
  {
    title: 'an ES5 constructor can extend a client',
    async play(stage) {
      const { WSMsgBroker } = stage;
      const server = await stage.server();
      function Old(id, port) {
        WSMsgBroker.call(this, id, '127.0.0.1', port);
        this.old = true;
      }
      util.inherits(Old, WSMsgBroker);
      Old.prototype.hello = function hello() {
        this.send('hello', this.id);
      };
      const client = stage.watchClient(new Old('old', server.port), 'client');
      await stage.until('client', 'registered');
      client.hello();
      await stage.until('client', 'message');
      client.unregister();
      await stage.until('client', 'unregistered');
      stage.log(
        'client',
        client instanceof Old,
        client instanceof WSMsgBroker,
        client.old,
        client.id,
      );
      client.close();
      await stage.until('client', 'close');
    },
  },
  {
    title: 'an ES5 constructor can extend a server',
    async play(stage) {
      const { Server } = stage.WSMsgBroker;
      function Old() {
        Server.call(this, 0, 'old');
      }
      util.inherits(Old, Server);
      const server = stage.watchServer(new Old());
      const port = await stage.portOf(server);
      await stage.client('a', { port }, { path: 'old' });
      stage.log('server', server instanceof Old, server instanceof Server, server.wss.options.path);
    },
  },
  {
    title: 'a constructor called without new throws',
    async play(stage) {
      const { WSMsgBroker } = stage;
      const { Server } = WSMsgBroker;
      for (const [name, call] of [
        ['client', () => WSMsgBroker('a', '127.0.0.1', 1)],
        ['server', () => Server(0)],
      ]) {
        try {
          call();
          stage.log('program', name, 'works');
        } catch (error) {
          stage.log('program', name, error instanceof TypeError);
        }
      }
    },
  },
];
