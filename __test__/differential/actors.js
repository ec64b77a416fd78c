'use strict';

// Raw actors: WebSocket clients and servers (with the `ws` of 1.7.2, without compression) and TCP
// connections. They log everything they receive and do what a scenario asks for. They do not know the
// protocol.

const net = require('node:net');
const { once } = require('node:events');
const { WebSocket } = require('../original');

/** The member that a client of 2.0 adds to the frame that registers its id. */
const OFFER = /^(\{"action":"register".*),"protocol":2\}$/;

// The common part of both ends of a raw WebSocket.
class RawSocket {
  constructor(stage, name, ws) {
    this.stage = stage;
    this.name = name;
    this.ws = ws;
    ws.on('message', (data, flags) => {
      if (flags.binary) stage.log(name, 'binary', data);
      // D17: a client offers version 2 when it registers.
      else if (!stage.isSentinel(data)) stage.log(name, 'frame', data.replace(OFFER, '$1}'));
    });
    ws.on('pong', (data) => stage.log(name, 'pong', String(data)));
    ws.on('close', (code, reason) => stage.log(name, 'close', code, reason));
    ws.on('error', (error) => stage.log(name, 'error', error));
  }

  // Sends one frame: a string as it is, a Buffer as a binary frame, anything else as JSON.
  frame(value) {
    const raw = typeof value === 'string' || Buffer.isBuffer(value);
    this.ws.send(raw ? value : JSON.stringify(value));
  }

  ping(data) {
    this.ws.ping(data);
  }

  close(code, reason) {
    this.ws.close(code, reason);
  }

  terminate() {
    this.ws.terminate();
  }
}

class RawClient extends RawSocket {
  constructor(stage, name, port, { path = '/', host = '127.0.0.1', protocols, url } = {}) {
    const address = url || `ws://${host}:${port}${path}`;
    super(stage, name, new WebSocket(address, protocols, { perMessageDeflate: false }));
  }

  async opened() {
    await this.stage.awaits(once(this.ws, 'open'), `${this.name} to open`);
  }

  // Sends as a client of the broker does, so that Stage.handled accepts both.
  send(message, dest) {
    this.frame({ action: 'send', message, dest });
  }

  // Resolves when all that the server has sent to this connection, registered as `id`, has arrived.
  async caughtUp(id) {
    const { token, arrived } = this.stage.sentinel();
    this.send(token, id);
    await arrived();
  }

  // Registers (again). The answer proves that all earlier frames were handled and no other frame was sent
  // back.
  async register(id) {
    const { stage, name } = this;
    const before = (stage.recording()[name] || []).length;
    this.frame({ action: 'register', id });
    const answered = () => (stage.recording()[name] || []).length > before;
    await stage.when(answered, `${name} to be registered as ${id}`);
  }
}

// The server's end of a client under test.
class PeerConnection extends RawSocket {
  // Resolves when the client has read all that was sent to it so far.
  async heard() {
    const { token, arrived } = this.stage.sentinel();
    this.frame({ action: 'message', message: token });
    await arrived();
  }
}

class Peer {
  #server = new WebSocket.Server({ host: '127.0.0.1', port: 0, perMessageDeflate: false });
  #accepted = [];

  constructor(stage, name) {
    this.stage = stage;
    this.name = name;
    this.#server.on('connection', (ws) => {
      const number = this.#accepted.length + 1;
      const connection = new PeerConnection(stage, number === 1 ? name : `${name} ${number}`, ws);
      this.#accepted.push(connection);
      stage.log(connection.name, 'accepts', ws.upgradeReq.url);
    });
  }

  async listening() {
    await once(this.#server, 'listening');
    this.port = this.#server._server.address().port;
  }

  // The connection with this number, once it has sent its first frame (a client registers first).
  async connection(number = 1) {
    const name = number === 1 ? this.name : `${this.name} ${number}`;
    await this.stage.until(name, 'frame');
    return this.#accepted[number - 1];
  }

  close() {
    this.#server.close();
  }
}

class Tcp {
  text = '';
  #socket;

  constructor(stage, name, port, host = '127.0.0.1') {
    this.stage = stage;
    this.name = name;
    this.#socket = typeof port === 'string' ? net.connect(port) : net.connect(port, host);
    this.#socket.on('data', (data) => {
      this.text += data.toString('latin1');
    });
    this.#socket.on('error', () => {});
    this.ended = new Promise((resolve) => {
      this.#socket.once('close', resolve);
    });
  }

  async connected() {
    await this.stage.awaits(once(this.#socket, 'connect'), `${this.name} to connect`);
  }

  write(data) {
    this.#socket.write(data, 'latin1');
  }

  // The received text, once `holds(text)` is true or the connection has ended.
  async received(holds) {
    const seen = () => holds(this.text);
    if (seen()) return this.text;
    const enough = new Promise((resolve) => {
      this.#socket.on('data', () => seen() && resolve());
    });
    await this.stage.awaits(Promise.race([enough, this.ended]), `${this.name} to receive more`);
    return this.text;
  }

  // The received text at the end of the connection.
  async toEnd() {
    await this.stage.awaits(this.ended, `${this.name} to end`);
    return this.text;
  }

  end() {
    this.#socket.end();
  }

  destroy() {
    this.#socket.destroy();
  }
}

class TcpServer {
  #server;
  #sockets = new Set();

  constructor(_stage, onConnection) {
    this.#server = net.createServer((socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      // Reads the request head, so that handlers contain only their response.
      let head = '';
      const read = (data) => {
        head += data.toString('latin1');
        if (!head.includes('\r\n\r\n')) return;
        socket.removeListener('data', read);
        onConnection(socket, head);
      };
      socket.on('data', read);
    });
    this.#server.listen(0, '127.0.0.1');
  }

  async listening() {
    await once(this.#server, 'listening');
    this.port = this.#server.address().port;
  }

  close() {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

module.exports = { RawClient, Peer, Tcp, TcpServer };
