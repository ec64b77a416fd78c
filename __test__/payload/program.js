'use strict';

// Programs with a small heap, to which a peer sends JSON that uses many times its size once parsed.

const { once } = require('node:events');
const { WebSocket } = require('ws');
const WSMsgBroker = require('../..');

/** JSON of this many bytes for which V8 needs about twenty times as many. */
const objects = (bytes) => `[${'{},'.repeat(bytes / 3)}{}]`;

async function start() {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await server.client.connected();
  const url = `ws://127.0.0.1:${server.address().port}`;
  const peer = new WebSocket(url);
  await once(peer, 'open');
  peer.send('{"action":"register","id":"peer","protocol":2}');
  await once(peer, 'message');
  const heard = [];
  peer.on('message', (text) => heard.push(JSON.parse(text)));
  const send = (message, dest, ack) => {
    const more = ack === undefined ? '' : `,"ack":${JSON.stringify(ack)}`;
    peer.send(`{"action":"send","message":${message},"dest":"${dest}"${more}}`);
  };
  const end = () => {
    peer.terminate();
    return server.close();
  };
  return { server, url, send, heard, end };
}

const answer = (_message, response) => response?.send('here');

const PROGRAMS = {
  /** To the server's own client: a message and a request. */
  async participant() {
    const { server, send, heard, end } = await start();
    server.client.on('message', answer);
    send(objects(6e6), 'server');
    send(objects(6e6), 'server', 'large');
    send('1', 'server', 'small');
    while (!heard.some(({ ack }) => ack === 'small')) await new Promise(setImmediate);
    const answers = heard.filter(({ action }) => action === 'answer');
    const { peerErrors } = server.client;
    console.log(JSON.stringify([answers.map(({ ack, error }) => [ack, error?.code]), peerErrors]));
    await end();
  },

  /** To a version 1 client that only listens to messages. */
  async client() {
    const { url, send, end } = await start();
    const client = await new WSMsgBroker('client', url).connected();
    const message = new Promise((resolve) => client.on('message', resolve));
    send(objects(6e6), 'client', 'large');
    send('"small"', 'client');
    console.log(JSON.stringify([await message, client.peerErrors]));
    await client.close();
    await end();
  },

  /** To a stream from which nothing is consumed for a while, in a busy program. */
  async stream() {
    const { url, send, end } = await start();
    const client = await new WSMsgBroker('client', url, { protocol: 2 }).connected();
    const messages = client.messages();
    const message = objects(200e3);
    for (let n = 0; n < 100; n += 1) send(message, 'client');
    send('"last"', 'client');
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const before = Date.now();
    while (Date.now() - before < 1000);
    let count = 0;
    for await (const { message } of messages) {
      count += 1;
      if (message === 'last') break;
    }
    console.log(JSON.stringify([count, client.peerErrors]));
    await client.close();
    await end();
  },
};

PROGRAMS[process.argv[2]]();
