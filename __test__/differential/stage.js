'use strict';

// The stage of a scenario: one implementation and the actors to drive it. Actors log what they receive. A
// scenario adds return values and thrown errors.
//
// `message` listeners are recorded in the form of 1.x programs: the message, and whether an answer is wanted.
// Only a client created with `exact` records the actual arguments (see difference D8).

const { once } = require('node:events');
const { Recorder } = require('./recorder');
const { RawClient, Peer, Tcp, TcpServer } = require('./actors');
const { acceptance, frame } = require('./frames');
const { runProgram, startCommand } = require('./programs');
const { lastingPort } = require('../../testkit/ports');

const CLIENT_EVENTS = ['open', 'registered', 'unregistered', 'close'];
/** Events of a server, with the number of arguments in 1.7.2; later ones are left out (see difference D8). */
const SERVER_EVENTS = { connection: 0, registered: 1, unregistered: 1 };

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

  // Starts a broker on a free port. `port` is set on the returned server once it listens.
  async server({ name = 'server', path, port = 0 } = {}) {
    const server = this.watchServer(new this.WSMsgBroker.Server(port, path), name);
    server.port = await this.portOf(server);
    this.#listening.push({ server, name, path });
    return server;
  }

  // Waits until the servers have emitted all pending events: an unrecorded connection of our own passes the
  // same queues behind them.
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
    // 1.7.2 keeps a timer of an hour, and thereby the process, for each request without an answer.
    this.cleanup(() =>
      Object.values(server.ack2timeout || {})
        .flat()
        .forEach(clearTimeout),
    );
    for (const [event, count] of Object.entries(SERVER_EVENTS)) {
      server.on(event, (...args) => this.log(name, event, ...args.slice(0, count)));
    }
    for (const event of ['warn', 'error']) {
      server.on(event, (...args) => {
        if (!this.isSentinel(args[0]?.message)) this.log(name, event, ...args);
      });
    }
    return server;
  }

  // 1.7.2 has its port in the inner http server, with a delay. 2.0 has address().
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

  // Connects a client of the implementation. Resolves once it is registered (or has emitted `until`).
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
      client.on(event, (...args) => {
        // D17: a reason follows the code.
        this.log(name, event, ...(event === 'close' ? args.slice(0, 1) : args));
      });
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

  // Resolves when the server has handled all that `sender` has sent so far and has called its listeners: it
  // warns about the unknown receiver of the last message.
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

  // A connection that registers and closes, without a trace in the recording. When the server has emitted its
  // end, it has detected the end of every connection that closed earlier.
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

  // A WebSocket client whose frames a scenario sends, and which records each received frame.
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

  // A WebSocket server that is not a broker: it records the frames of clients, and a scenario answers them.
  async peer(name = 'peer') {
    const peer = new Peer(this, name);
    this.cleanup(() => peer.close());
    await peer.listening();
    this.hidePort(peer.port);
    return peer;
  }

  // A plain TCP connection and a plain TCP server, for handshakes and malformed frames.
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

  // Answers an upgrade request read by tcpServer with 101, immediately followed by these frames.
  upgrade(socket, head, frames = []) {
    socket.write(Buffer.concat([Buffer.from(acceptance(head)), ...frames]));
  }

  // An unmasked text frame, as servers send them. `bytes`: any frame.
  textFrame(text) {
    return this.bytes(0x81, text);
  }

  bytes(first, text) {
    return frame(first, Buffer.from(text));
  }

  // A port of 127.0.0.1 on which only the scenario listens, for cases that cannot use port 0.
  async freePort() {
    const port = await lastingPort({ teardown: (action) => this.cleanup(action) });
    this.hidePort(port);
    return port;
  }

  // Runs `main(WSMsgBroker, print, argument)` in a process of its own. Records its lines and its end.
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

  // Logs the number of arguments of an event, in addition to the log of watchClient.
  countArguments(emitter, who, event) {
    emitter.on(event, (...args) => {
      if (!this.#settling) this.log(who, event, args.length, ...args);
    });
  }

  // Logs the exception of a call, or its return value as converted by `result`.
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

  // Ends everything the scenario left open. Later events are not recorded.
  end() {
    this.freeze();
    for (const action of this.#cleanups.reverse()) {
      try {
        action();
      } catch {
        // 1.7.2 throws when an object is closed that was never open. It is closed in either case.
      }
    }
  }
}

module.exports = { Stage };
