'use strict';

// Programs with a small heap, to which a peer sends JSON that uses many times its size once parsed.

const { once } = require('node:events');
const { WebSocket, WebSocketServer } = require('ws');
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
  const answer = (ack) => peer.send(`{"action":"answer","ack":"${ack}","message":"answer"}`);
  const end = () => {
    peer.terminate();
    return server.close();
  };
  return { server, url, send, heard, answer, end };
}

const answerAll = (_message, response) => response?.send('here');

const PROGRAMS = {
  /** To the server's own client: a message and a request. */
  async participant() {
    const { server, send, heard, end } = await start();
    server.client.on('message', answerAll);
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

  /** To a stream from which nothing is consumed while a request is pending. */
  async asking() {
    const { url, send, heard, answer, end } = await start();
    const client = await new WSMsgBroker('client', url, { protocol: 2 }).connected();
    const messages = client.messages();
    const request = client.request('question', 'peer');
    while (heard.length === 0) await new Promise(setImmediate);
    const message = objects(200e3);
    for (let n = 0; n < 100; n += 1) send(message, 'client');
    send('"last"', 'client');
    answer(heard[0].ack);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    let count = 0;
    for await (const { message } of messages) {
      count += 1;
      if (message === 'last') break;
    }
    console.log(JSON.stringify([count, (await request).message]));
    await client.close();
    await end();
  },

  /** Requests to the server's own client, never answered: their acks have short names and long texts. */
  async acks() {
    const { server, send, end } = await start();
    let count = 0;
    server.client.on('message', () => {
      count += 1;
    });
    const text = `\u0100${'x'.repeat(8000)}`;
    for (let n = 0; n < 20_000; n += 1) {
      send('1', 'server', [{ text }, n]);
      while (n - count > 100) await new Promise(setImmediate);
    }
    while (count < 20_000) await new Promise(setImmediate);
    console.log(JSON.stringify(count));
    await end();
  },

  /** Answers of many peers to one question, each small enough by itself. */
  async answers() {
    const { server, url, end } = await start();
    const client = await new WSMsgBroker('client', url, { protocol: 2 }).connected();
    const ids = Array.from({ length: 30 }, (_, n) => `peer ${n}`);
    // Outside of the heap.
    const outcomes = {
      small: Buffer.from('"message":1}'),
      large: Buffer.from(`"message":${objects(300e3)}}`),
      refuse: Buffer.from(`"error":{"message":"\u0100${'x'.repeat(900e3)}"}}`),
    };
    const peers = ids.map(async (id) => {
      const peer = new WebSocket(url);
      await once(peer, 'open');
      peer.on('message', (text) => {
        const { action, ack, message } = JSON.parse(text);
        if (action === 'message') {
          const head = Buffer.from(`{"action":"answer","ack":"${ack}",`);
          peer.send(Buffer.concat([head, outcomes[message]]), { binary: false });
        }
      });
      const registered = once(peer, 'message');
      peer.send(JSON.stringify({ action: 'register', id, protocol: 2 }));
      await registered;
      return peer;
    });
    await Promise.all(peers);
    const found = [];
    for (const asker of [server.client, client]) {
      // Only the counts are kept.
      const ask = async (what) => {
        const { answers, failed } = await asker.requestAll(what, ids);
        const codes = new Set(Array.from(failed.values(), ({ code }) => code));
        return [answers.size > 0, answers.size + failed.size, ...codes];
      };
      found.push(await Promise.all([ask('large'), ask('large')]));
      found.push(await ask('refuse'));
      // Answers of ended requests do not count.
      found.push(await ask('small'));
    }
    console.log(JSON.stringify(found));
    for (const peer of await Promise.all(peers)) peer.terminate();
    await client.close();
    await end();
  },

  /** From a server: frames with a large member other than the message. */
  async members() {
    const large = objects(9e6);
    const frames = [
      () => `{"action":"message","message":1,"from":${large}}`,
      () => `{"action":"message","message":1,"ack":"k","from":${large}}`,
      () => `{"action":"answer","ack":"k","message":1,"from":${large}}`,
      () => `{"action":"unregistered","id":${large}}`,
      () => `{"action":"unregistered","id":"client","code":${large}}`,
      () => `{"action":"receipt","ref":1,"delivered":${large},"failed":{}}`,
      () => `{"action":"receipt","ref":1,"delivered":[],"failed":{"a":${large}}}`,
      () => `{"action":"receipt","ref":${large},"delivered":[],"failed":{}}`,
      () => `{"action":"failed","ack":"k","dest":${large},"code":"GONE"}`,
      () => `{"action":"failed","ack":"k","dest":"a","code":${large}}`,
      () => `{"action":"failed","ack":${large},"dest":"a","code":"GONE"}`,
      () => `{"action":"error","code":${large},"message":"a"}`,
      () => `{"action":"error","code":"a","message":${large}}`,
      () => `{"action":"error","code":"a","message":"a","ref":${large}}`,
      () => `{"action":"cancel","ack":${large}}`,
      () => `{"action":"goaway","within":${large}}`,
    ];
    const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    await once(server, 'listening');
    server.on('connection', (socket) => {
      socket.once('message', () => {
        socket.send('{"action":"registered","id":"client","protocol":2}');
        for (const frame of frames) socket.send(Buffer.from(frame()), { binary: false });
        socket.send('{"action":"message","message":"small","from":"a"}');
      });
    });
    const { port } = server.address();
    const client = new WSMsgBroker('client', `ws://127.0.0.1:${port}`, { protocol: 2 });
    const message = new Promise((resolve) => client.on('message', resolve));
    console.log(JSON.stringify([await message, client.peerErrors === frames.length]));
    await client.close();
    server.close();
  },
};

PROGRAMS[process.argv[2]]();
