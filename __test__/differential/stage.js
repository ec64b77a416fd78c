'use strict';

// What a scenario is given: one implementation, and the actors it can be driven with. Actors log what
// they see by themselves; a scenario adds what it alone can know (return values, thrown errors).
//
// `message` listeners are recorded as 1.x programs use them: the message, and whether an answer is
// wanted. Only a client made with `exact` records the arguments as they are (see difference D8).

const { once } = require('node:events');
const { Recorder } = require('./recorder');
const { RawClient, Peer, Tcp, TcpServer } = require('./actors');
const { acceptance, frame } = require('./frames');
const { runProgram, startCommand } = require('./programs');
const { lastingPort } = require('../../testkit/ports');

const CLIENT_EVENTS = ['open', 'registered', 'unregistered', 'close'];
const SERVER_EVENTS = ['connection', 'registered', 'unregistered'];

class Stage extends Recorder {
  #cleanups = [];
  #listening = [];
  #settling = false;
  #passersBy = 0;

  constructor(implementation) {
    super();
    this.implementation = implementation;
  }

  get WSMsgBroker() {
    return this.implementation.WSMsgBroker;
  }

  // Starts a broker on a free port; `port` is set on the returned server once it listens.
  async server({ name = 'server', path, port = 0 } = {}) {
    const server = this.watchServer(new this.WSMsgBroker.Server(port, path), name);
    server.port = await this.portOf(server);
    this.#listening.push({ server, name, path });
    return server;
  }

  // Waits until the servers have told all that they know: a connection of our own, left out of the
  // recording, goes the same way behind everything else.
  async settle() {
    this.#settling = true;
    for (const { server, name, path } of this.#listening) {
      if (!server.wss) continue;
      const at = path ? `/${path.replace(/^\//, '')}` : '/';
      const probe = await this.raw(server, `probe of ${name}`, { path: at });
      await this.handled(probe);
      this.forget(probe.name);
      this.forgetLast(name, 'connection');
    }
  }

  watchServer(server, name = 'server') {
    this.cleanup(() => server.close());
    // 1.7.2 keeps a timer of an hour for each request without an answer, and the process with it.
    this.cleanup(() =>
      Object.values(server.ack2timeout || {})
        .flat()
        .forEach(clearTimeout),
    );
    for (const event of SERVER_EVENTS)
      server.on(event, (...args) => this.log(name, event, ...args));
    for (const event of ['warn', 'error']) {
      server.on(event, (...args) => {
        if (!this.isSentinel(args[0]?.message)) this.log(name, event, ...args);
      });
    }
    return server;
  }

  // 1.7.2 tells its port through the http server inside, and only later; 2.0 has address().
  async portOf(server) {
    let { port } = (typeof server.address === 'function' && server.address()) || {};
    if (!port) {
      const http = server.wss._server;
      if (!http.listening) await this.awaits(once(http, 'listening'), 'the server to listen');
      ({ port } = http.address());
    }
    this.hidePort(port);
    return port;
  }

  // Connects a client of the implementation; resolves once it is registered (or has seen `until`).
  async client(id, target, { until = 'registered', ...options } = {}) {
    const client = this.connect(id, target, options);
    if (until) await this.until(client.recordedAs, until);
    return client;
  }

  connect(id, target, { name = `client ${String(id)}`, host = '127.0.0.1', path, exact } = {}) {
    const client = new this.WSMsgBroker(id, host, target.port ?? target, path);
    return this.watchClient(client, name, exact);
  }

  watchClient(client, name, exact = false) {
    client.recordedAs = name;
    this.cleanup(() => client.close());
    for (const event of CLIENT_EVENTS)
      client.on(event, (...args) => this.log(name, event, ...args));
    client.on('error', (...args) => {
      if (!this.isSentinel(args[0]?.message)) this.log(name, 'error', ...args);
    });
    client.on('message', (...args) => {
      const [message, response] = args;
      if (typeof message === 'string' && this.isSentinel(message)) return;
      if (exact) this.log(name, 'message', ...args);
      else this.log(name, 'message', message, response ? 'answer wanted' : 'no answer wanted');
    });
    return client;
  }

  // Resolves when the server has handled all that `sender` has sent so far, and told its listeners:
  // it warns about the unknown receiver of the last message.
  async handled(sender) {
    const { token, arrived } = this.sentinel();
    sender.send('nobody hears this', token);
    await arrived();
  }

  // Resolves when all that the server has sent to this client so far has arrived.
  async caughtUp(client) {
    const { token, arrived } = this.sentinel();
    client.send(token, client.id);
    await arrived();
  }

  // A connection that comes, registers and goes: when the server has told of its end, it has noticed the
  // end of every connection that was gone before. It leaves nothing in the recording.
  async passBy(server, name = 'server') {
    const id = `passer-by ${++this.#passersBy}`;
    const raw = await this.raw(server, id, { register: id });
    raw.close(1000);
    const ended = () =>
      this.recording()[name].some(([event, who]) => event === 'unregistered' && who === id);
    await this.when(ended, 'the passer-by to be unregistered');
    await this.until(id, 'close');
    this.forget(id);
    this.forgetLast(name, 'connection');
    this.forgetLast(name, 'registered');
    this.forgetLast(name, 'unregistered');
  }

  // A WebSocket client that sends what it is told, and records each frame as it came.
  async raw(target, name = 'raw', options = {}) {
    const raw = new RawClient(this, name, target.port ?? target, options);
    this.cleanup(() => raw.terminate());
    await raw.opened();
    if (options.register !== undefined) {
      raw.frame({ action: 'register', id: options.register });
      await this.until(name, 'frame');
    }
    return raw;
  }

  // A WebSocket server that is no broker: it records what clients send and answers what it is told.
  async peer(name = 'peer') {
    const peer = new Peer(this, name);
    this.cleanup(() => peer.close());
    await peer.listening();
    this.hidePort(peer.port);
    return peer;
  }

  // A plain TCP connection, and a plain TCP server, for handshakes and malformed frames.
  async tcp(target, name = 'tcp') {
    const tcp = new Tcp(this, name, target.port ?? target);
    this.cleanup(() => tcp.destroy());
    await tcp.connected();
    return tcp;
  }

  async tcpServer(onConnection) {
    const server = new TcpServer(this, onConnection);
    this.cleanup(() => server.close());
    await server.listening();
    this.hidePort(server.port);
    return server;
  }

  // Answers an upgrade request read by tcpServer with 101, and what follows right behind it.
  upgrade(socket, head, frames = []) {
    socket.write(Buffer.concat([Buffer.from(acceptance(head)), ...frames]));
  }

  // An unmasked text frame, as servers send them; `bytes` is any frame.
  textFrame(text) {
    return this.bytes(0x81, text);
  }

  bytes(first, text) {
    return frame(first, Buffer.from(text));
  }

  // A port of 127.0.0.1 where nobody listens but the scenario, for what cannot be tested with port 0.
  async freePort() {
    const port = await lastingPort({ teardown: (action) => this.cleanup(action) });
    this.hidePort(port);
    return port;
  }

  // Runs `main(WSMsgBroker, print, argument)` as a process of its own; records its lines and its end.
  async program(main, argument, name = 'program') {
    const { lines, code, signal } = await this.awaits(
      runProgram(this, this.implementation, main, argument),
      'the program to end',
    );
    for (const line of lines) this.log(name, 'prints', line);
    this.log(name, 'ends', code, signal);
  }

  // Starts the command line tool of the implementation.
  command(args, name = 'command') {
    const command = startCommand(this, this.implementation, args, name);
    this.cleanup(() => command.kill());
    return command;
  }

  // Logs how many arguments an event comes with, beside what watchClient logs.
  countArguments(emitter, who, event) {
    emitter.on(event, (...args) => {
      if (!this.#settling) this.log(who, event, args.length, ...args);
    });
  }

  // Logs what a call throws, or what `result` makes of its return value.
  attempt(who, call, what, result) {
    try {
      const value = what();
      if (result) this.log(who, call, 'returns', result(value));
      else this.log(who, call, 'works');
      return value;
    } catch (error) {
      this.log(who, call, 'throws', error);
      return undefined;
    }
  }

  cleanup(action) {
    this.#cleanups.push(action);
  }

  // Ends what the scenario left open; what happens from here on is not recorded.
  end() {
    this.freeze();
    for (const action of this.#cleanups.reverse()) {
      try {
        action();
      } catch {
        // 1.7.2 throws when a thing is closed that never opened; it is gone either way.
      }
    }
  }
}

module.exports = { Stage };
