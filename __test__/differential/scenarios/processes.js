'use strict';

// How programs affect their process: when it ends, and by which error. Programs are functions without free
// variables, run by Node.js with (WSMsgBroker, print, argument, WebSocket).

const { request, frame } = require('../frames');

// A scenario of one program without differences.
const program = (title, main) => ({ title, play: (stage) => stage.program(main) });

const differing = (title, differs, original, ours, main) => ({
  title,
  differs,
  expected: { original: { program: original }, ours: { program: ours } },
  play: (stage) => stage.program(main),
});

/** The entries of a peer for a client `a`. */
const CONNECTS = [
  ['accepts', '/'],
  ['frame', '{"action":"register","id":"a"}'],
];
const prints = (line) => ['prints', line];
const ends = (code) => ['ends', code, null];

// A broker, a raw connection to it, and the effect of invalid text.
function badText(WSMsgBroker, print, _, WebSocket) {
  const server = new WSMsgBroker.Server(0);
  process.on('uncaughtException', (error) => {
    print(`uncaught ${error.name}`);
    process.exit(1);
  });
  const start = (port) => {
    const raw = new WebSocket(`ws://127.0.0.1:${port}`);
    raw.on('open', () => {
      raw.send('no json');
      raw.send(JSON.stringify({ action: 'foo' }));
      raw.send(JSON.stringify({ action: 'register', id: 'after' }));
    });
    raw.on('message', (text) => {
      print(text);
      process.exit(0);
    });
  };
  if (server.address) start(server.address().port);
  else server.wss.on('listening', () => start(server.wss._server.address().port));
}

// A client whose listener throws, with or without listeners for the exception.
function throwingListener(WSMsgBroker, print, { listen }) {
  const server = new WSMsgBroker.Server(0);
  process.on('uncaughtException', (error) => print(`uncaught ${error.message}`));
  const start = (port) => {
    const client = new WSMsgBroker('a', '127.0.0.1', port);
    if (listen) client.on('error', (error) => print(`error ${error.message}`));
    client.on('registered', () => {
      client.send('one', 'a');
      client.send('two', 'a', (_from, answer) => {
        print(`answer ${answer}`);
        throw new Error('of the callback');
      });
    });
    client.on('message', (message, response) => {
      print(`message ${message}`);
      if (message === 'one') throw new Error('of the listener');
      response.send('yes');
      client.unregister();
    });
    client.on('unregistered', () => process.exit());
  };
  if (server.address) start(server.address().port);
  else server.wss.on('listening', () => start(server.wss._server.address().port));
}

module.exports = [
  program('a process ends by itself when client and server are closed', (WSMsgBroker, print) => {
    const server = new WSMsgBroker.Server(0);
    const start = (port) => {
      const client = new WSMsgBroker('a', '127.0.0.1', port);
      client.on('message', (message, response) => response.send(`${message} answered`));
      client.on('registered', () => {
        client.send('question', 'a', (from, answer) => {
          print(`${from} ${answer}`);
          client.close();
        });
      });
      client.on('close', (code) => {
        print(`close ${code}`);
        server.close();
      });
    };
    process.on('exit', (code) => print(`exit ${code}`));
    if (server.address) start(server.address().port);
    else server.wss.on('listening', () => start(server.wss._server.address().port));
  }),
  {
    title: 'a process whose connection was refused ends by itself',
    async play(stage) {
      const main = (WSMsgBroker, print, port) => {
        const client = new WSMsgBroker('a', '127.0.0.1', port);
        client.on('error', (error) => print(error.code));
        client.on('close', (code) => print(`close ${code}`));
      };
      await stage.program(main, await stage.freePort());
    },
  },
  program(
    'a server that was closed at once does not keep the process alive',
    (WSMsgBroker, print) => {
      new WSMsgBroker.Server(0).close();
      process.on('exit', () => print('ended'));
    },
  ),
  program('an open server keeps its process alive', (WSMsgBroker, print) => {
    const server = new WSMsgBroker.Server(0);
    process.on('exit', () => print('ended'));
    // Only the server can keep the event loop running until this timer.
    setTimeout(() => {
      print('still alive');
      server.close();
    }, 300).unref();
  }),
  {
    title: 'an open client keeps its process alive',
    async play(stage) {
      const server = await stage.server();
      await stage.program((WSMsgBroker, print, port) => {
        const client = new WSMsgBroker('a', '127.0.0.1', port);
        process.on('exit', () => print('ended'));
        client.on('registered', () => {
          setTimeout(() => {
            print('still alive');
            client.close();
          }, 300).unref();
        });
      }, server.port);
      await stage.until('server', 'unregistered');
    },
  },
  {
    title: 'messages sent right before process.exit() arrive',
    async play(stage) {
      const peer = await stage.peer();
      await stage.program((WSMsgBroker, _print, port) => {
        const client = new WSMsgBroker('a', '127.0.0.1', port);
        client.on('open', () => {
          for (let number = 0; number < 20; number++) client.send(number, 'b');
          process.exit(3);
        });
      }, peer.port);
      await stage.until('peer', 'close');
    },
  },
  {
    title: 'process.exit() with open connections ends cleanly',
    async play(stage) {
      await stage.program((WSMsgBroker, _print) => {
        const server = new WSMsgBroker.Server(0);
        const start = (port) => {
          const client = new WSMsgBroker('a', '127.0.0.1', port);
          client.on('message', () => process.exit(4));
          client.on('registered', () => client.send('m', 'a'));
        };
        if (server.address) start(server.address().port);
        else server.wss.on('listening', () => start(server.wss._server.address().port));
      });
    },
  },
  {
    title: 'an error of a client without an error listener ends the process',
    async play(stage) {
      const main = (WSMsgBroker, print, port) => {
        process.on('exit', (code) => print(`exit ${code}`));
        new WSMsgBroker('a', '127.0.0.1', port);
      };
      await stage.program(main, await stage.freePort());
    },
  },
  {
    title: 'invalid text for a client without an error listener',
    differs: ['D4'],
    expected: {
      original: {
        peer: [...CONNECTS, ['close', 1006, '']],
        program: [
          prints('unable to parse message (only JSON-encoded messages are handled)'),
          ends(1),
        ],
      },
      ours: {
        peer: [...CONNECTS, ['close', 1000, '']],
        program: [prints('message after'), ends(0)],
      },
    },
    async play(stage) {
      const peer = await stage.peer();
      const ended = stage.program((WSMsgBroker, print, port) => {
        process.on('uncaughtException', (error) => {
          print(error.message);
          process.exit(1);
        });
        const client = new WSMsgBroker('a', '127.0.0.1', port);
        client.on('message', (message) => {
          print(`message ${message}`);
          client.close();
        });
      }, peer.port);
      const connection = await peer.connection();
      connection.frame('no json');
      connection.frame('{"action":"message","message":"after"}');
      await ended;
      await stage.until('peer', 'close');
    },
  },
  {
    title: 'an error of a server without an error listener',
    differs: ['D4'],
    expected: {
      original: { program: [prints('uncaught SyntaxError'), ends(1)] },
      ours: { program: [prints('{"action":"registered","id":"after"}'), ends(0)] },
    },
    play: (stage) => stage.program(badText),
  },
  {
    title: 'a listener that throws, with an error listener',
    differs: ['D7'],
    expected: {
      original: {
        program: [
          prints('message one'),
          prints('error of the listener'),
          prints('message two'),
          prints('answer yes'),
          prints('error of the callback'),
          ends(0),
        ],
      },
      ours: {
        program: [
          prints('message one'),
          prints('uncaught of the listener'),
          prints('message two'),
          prints('answer yes'),
          prints('uncaught of the callback'),
          ends(0),
        ],
      },
    },
    play: (stage) => stage.program(throwingListener, { listen: true }),
  },
  differing(
    'a listener of a server that throws, with an error listener',
    ['D7'],
    [prints('error of the listener'), prints('registered b'), ends(0)],
    [prints('uncaught of the listener'), prints('registered b'), ends(0)],
    (WSMsgBroker, print) => {
      const server = new WSMsgBroker.Server(0);
      const start = (port) => {
        const next = () => new WSMsgBroker('b', '127.0.0.1', port);
        server.on('error', (error) => {
          print(`error ${error.message}`);
          next();
        });
        process.on('uncaughtException', (error) => {
          print(`uncaught ${error.message}`);
          next();
        });
        server.on('registered', (id) => {
          if (id === 'a') throw new Error('of the listener');
          print(`registered ${id}`);
          process.exit();
        });
        new WSMsgBroker('a', '127.0.0.1', port);
      };
      if (server.address) start(server.address().port);
      else server.wss.on('listening', () => start(server.wss._server.address().port));
    },
  ),
  ...['open', 'close'].map((event) => ({
    title: `an exception in a listener of ${event} is uncaught`,
    async play(stage) {
      const peer = await stage.peer();
      const ended = stage.program(
        (WSMsgBroker, print, { port, event }) => {
          process.on('uncaughtException', (error) => {
            print(`uncaught ${error.message}`);
            process.exit();
          });
          const client = new WSMsgBroker('a', '127.0.0.1', port);
          client.on('error', (error) => print(`error ${error.message}`));
          client.on(event, () => {
            throw new Error(`of ${event}`);
          });
        },
        { port: peer.port, event },
      );
      if (event === 'close') (await peer.connection()).close(1000);
      await ended;
      await stage.until('peer', 'close');
      stage.forget('peer');
    },
  })),
  differing(
    'a port in use without an error listener is an uncaught exception',
    ['D4'],
    [
      prints('uncaught EADDRINUSE, 0 listeners'),
      prints('uncaught EADDRINUSE, 1 listeners'),
      ends(0),
    ],
    [prints('uncaught EADDRINUSE, 0 listeners'), prints('error EADDRINUSE'), ends(0)],
    (WSMsgBroker, print) => {
      const net = require('node:net');
      const taken = net.createServer().listen(0, '0.0.0.0', () => {
        const { port } = taken.address();
        const first = new WSMsgBroker.Server(port);
        process.once('uncaughtException', (error) => {
          print(`uncaught ${error.code}, ${first.listenerCount('error')} listeners`);
          const second = new WSMsgBroker.Server(port);
          process.once('uncaughtException', (again) => {
            print(`uncaught ${again.code}, ${second.listenerCount('error')} listeners`);
            process.exit(0);
          });
          second.on('error', (again) => {
            print(`error ${again.code}`);
            process.exit(0);
          });
        });
      });
    },
  ),
  differing(
    'a request without an answer does not keep the process alive',
    ['D6'],
    [prints('kept alive'), ends(0)],
    [prints('ended by itself'), ends(0)],
    (WSMsgBroker, print) => {
      const server = new WSMsgBroker.Server(0);
      const start = (port) => {
        const client = new WSMsgBroker('a', '127.0.0.1', port);
        client.on('registered', () => client.send('question', 'a', () => {}));
        client.on('message', () => {
          client.close();
          server.close();
          // 1.7.2 waits for an hour here. A process that ends by itself takes milliseconds.
          setTimeout(() => {
            end = 'kept alive';
            process.exit();
          }, 3000).unref();
        });
      };
      let end = 'ended by itself';
      process.on('exit', () => print(end));
      if (server.address) start(server.address().port);
      else server.wss.on('listening', () => start(server.wss._server.address().port));
    },
  ),
  {
    title: 'the program of the 1.x README works',
    async play(stage) {
      const port = await stage.freePort();
      await stage.program((WSMsgBroker, print, freePort) => {
        const server = new WSMsgBroker.Server(freePort, 'foo');
        const client0 = new WSMsgBroker('client0', 'localhost', freePort, 'foo');
        const client1 = new WSMsgBroker('client1', 'localhost', freePort, 'foo');
        let registered = 0;
        const both = () => {
          if (++registered < 2) return;
          client1.on('message', (msg, response) => {
            print(`client1 received > ${JSON.stringify(msg)}`);
            if (response) {
              response.send('Hi to you too, sir.');
              return;
            }
            server.close();
            client0.close();
            client1.close();
          });
          client0.send('Hi there', 'client1', (from, answer) => {
            print(`client0 received an answer from ${from} > ${answer}`);
            client0.send({ complex: 'thing' }, 'client1');
          });
        };
        client0.on('registered', both);
        client1.on('registered', both);
      }, port);
    },
  },
  {
    title: 'a malformed frame does not end the process of a broker without listeners',
    differs: ['D4'],
    expected: {
      original: { program: [prints('listening'), ['ends', 1, null]] },
      ours: { program: [prints('listening'), prints('still alive'), ends(0)] },
    },
    async play(stage) {
      const port = await stage.freePort();
      const bad = request('/') + frame(0xf1, Buffer.from('x'), { masked: true }).toString('latin1');
      await stage.program(
        (WSMsgBroker, print, { port, bad }) => {
          const net = require('node:net');
          new WSMsgBroker.Server(port);
          print('listening');
          const attack = () => {
            const socket = net.connect(port, '127.0.0.1', () =>
              socket.write(Buffer.from(bad, 'latin1')),
            );
            socket.on('error', () => {});
            socket.on('data', () => {});
            socket.on('close', () => {
              print('still alive');
              process.exit(0);
            });
          };
          setImmediate(attack);
        },
        { port, bad },
      );
    },
  },
];
