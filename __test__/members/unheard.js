'use strict';

// Programs without an `error` listener, and a server or another client that attacks them. Each prints its
// number of errors and ends by itself.

const net = require('node:net');
const { once } = require('node:events');
const { WebSocket, WebSocketServer } = require('ws');
const WSMsgBroker = require('../..');

const closed = (client) => new Promise((resolve) => client.on('close', resolve));

async function start(options) {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', ...options });
  await server.ready;
  return { server, url: `ws://127.0.0.1:${server.address().port}` };
}

/** A peer that writes its own frames. `next()` returns the next frame that it receives. */
async function startPeer(url, id) {
  const socket = new WebSocket(url);
  await once(socket, 'open');
  const texts = [];
  let wake = () => {};
  socket.on('message', (text) => {
    texts.push(String(text));
    wake();
  });
  const next = async () => {
    while (texts.length === 0) {
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
    return texts.shift();
  };
  socket.send(`{"action":"register","id":"${id}","protocol":2}`);
  await next();
  return { send: (text) => socket.send(text), next, end: () => socket.terminate() };
}

/** A server that writes these bytes once it has accepted a client. */
async function startPlayed(bytes) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  server.on('connection', (socket) => socket.once('message', () => socket._socket.write(bytes)));
  await once(server, 'listening');
  return { url: `ws://127.0.0.1:${server.address().port}`, end: () => server.close() };
}

const DEEP = `${'['.repeat(20_000)}${']'.repeat(20_000)}`;

const PROGRAMS = {
  /** A client and the server's own client answer, whatever the ack. */
  async acks() {
    const { server, url } = await start();
    const client = await new WSMsgBroker('client', url, { protocol: 2 }).connected();
    await server.client.connected();
    for (const each of [client, server.client]) {
      each.on('message', (message, response) => response.send(message));
    }
    const peer = await startPeer(url, 'peer');
    for (const ack of ['1e999', '1.0', '{"a":[1.0,"b"]}', '"\\u0041"', '"\\ud800"']) {
      for (const dest of ['client', 'server']) {
        peer.send(`{"action":"send","message":1,"dest":"${dest}","ack":${ack}}`);
        const expected = `{"action":"answer","ack":${ack},"from":"${dest}","message":1}`;
        const text = await peer.next();
        if (text !== expected) throw new Error(text);
      }
    }
    for (const dest of ['client', 'server']) {
      // The broker may refuse the request, but its process must not end.
      peer.send(`{"action":"send","message":1,"dest":"${dest}","ack":${DEEP}}`);
      await peer.next();
    }
    peer.end();
    await client.close();
    await server.close();
    return client.peerErrors + server.client.peerErrors;
  },

  /** A callback gets an answer without a message, and an answer comes from a connection without an id. */
  async answers() {
    const { server, url } = await start({ authenticate: () => true });
    const peer = await startPeer(url, 'peer');
    const asker = await new WSMsgBroker('asker', url).connected();
    asker.send(1, 'peer', () => {});
    const { ack } = JSON.parse(await peer.next());
    peer.send(`{"action":"answer","ack":"${ack}"}`);
    const responder = await new WSMsgBroker('responder', url, { protocol: 2 }).connected();
    const asked = new Promise((resolve) =>
      responder.on('message', (_, response) => resolve(response)),
    );
    peer.send('{"action":"send","message":1,"dest":"responder","ack":"k"}');
    const response = await asked;
    responder.unregister();
    response.send(1);
    await closed(responder);
    while (asker.peerErrors === 0) await new Promise(setImmediate);
    peer.end();
    await asker.close();
    await server.close();
    return asker.peerErrors;
  },

  /** Another client takes over the id on a server with authentication. */
  async conflict() {
    const authenticate = ({ token }) => ({ principal: token });
    const { server, url } = await start({ authenticate });
    const first = await new WSMsgBroker('client', url, { token: 'a' }).connected();
    const second = new WSMsgBroker('client', url, { token: 'b' });
    const code = await closed(second);
    await first.close();
    await server.close();
    return [code, second.peerErrors];
  },

  /** The server violates the WebSocket protocol with an unknown opcode. */
  async violation() {
    const { url, end } = await startPlayed(Buffer.from([0x83, 0x00]));
    const client = new WSMsgBroker('client', url);
    const code = await closed(client);
    end();
    return [code, client.peerErrors];
  },

  /** The server announces more than the client accepts. */
  async payload() {
    const { url, end } = await startPlayed(
      Buffer.from([0x81, 0x7f, 0, 0, 0, 0, 255, 255, 255, 255]),
    );
    const client = new WSMsgBroker('client', url);
    const code = await closed(client);
    end();
    return [code, client.peerErrors];
  },

  /** A connection that cannot be opened is an error, as everywhere in Node.js. */
  async refused() {
    const probe = net.createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address();
    probe.close();
    await once(probe, 'close');
    new WSMsgBroker('client', `ws://127.0.0.1:${port}`);
  },
};

PROGRAMS[process.argv[2]]().then((result = null) => console.log(JSON.stringify(result)));
