'use strict';

// Each member of each server action with any JSON value: it causes at most one error, which is no event
// without a listener, and the connection stays open.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const test = require('ava');
const { WebSocketServer } = require('ws');
const { join, kinds, urlOf } = require('./support/clients');
const { frames, VALUES } = require('./members/frames');

const PROGRAM = path.join(__dirname, 'members', 'program.js');
const DEEP = 100_000;
/** Acks that change if they are parsed and serialized again. */
const ACKS = [
  '1.0',
  '1E2',
  '123456789012345678901234567890',
  '"\\u0041\\/\\ud83d\\ude00"',
  '[ 1.0 , "a\\"b" ]',
  '{"a":{"b":[1.0,-0,1e999]},"a":2}',
  '{"from":"a"}',
  '[\n\t1,\r\n2 ]',
];
/** Possible texts after an ack. */
const FROM = ['', ',"from":"peer"', ',"from":"a \\"b\\" \\\\"', ',"from":7'];
const REGISTERED = '{"action":"registered","id":"client","protocol":2}';

/** A server that calls `play(socket)` after the registration. */
async function startServer(t, play) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.teardown(() => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  server.on('connection', (socket) => {
    socket.once('message', () => {
      socket.send(REGISTERED);
      play(socket);
    });
  });
  await once(server, 'listening');
  return server;
}

/** Sends a frame. Resolves with the program's number of errors so far. */
function counted(socket, text) {
  return new Promise((resolve) => {
    const hear = (frame) => {
      const { action, message } = JSON.parse(frame);
      // The program answers the other messages.
      if (action === 'send') {
        socket.off('message', hear);
        resolve(message);
      }
    };
    socket.on('message', hear);
    socket.send(text);
    socket.send(say('count'));
  });
}

/** Runs the program. Resolves with its exit code and its stderr. */
async function run(t, kind, server, ...more) {
  const args = [PROGRAM, kind, urlOf(server), ...more];
  const program = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  t.teardown(() => program.kill('SIGKILL'));
  let stderr = '';
  program.stderr.on('data', (text) => {
    stderr += text;
  });
  const [code, signal] = await once(program, 'close');
  return { code: code ?? signal, stderr };
}

/**
 * Plays these frames to the program one after the other. Resolves with its exit code, its stderr and the
 * errors per frame.
 */
async function play(t, kind, texts) {
  const errors = [];
  const server = await startServer(t, async (socket) => {
    let before = 0;
    for (const text of texts) {
      const now = await counted(socket, text);
      errors.push(now - before);
      before = now;
    }
    socket.send(say('end'));
  });
  return { ...(await run(t, kind, server)), errors };
}

const say = (message) => `{"action":"message","message":"${message}"}`;

const ends = (open, close, count) => open.repeat(count) + close.repeat(count);
const texts = Object.values(VALUES).flatMap(([text]) => (text === undefined ? [] : [text]));

for (const kind of kinds) {
  test(`${kind}: a member of any type causes at most one error, and the connection stays open`, async (t) => {
    const all = [...frames()];
    const { code, stderr, errors } = await play(
      t,
      kind,
      all.map(({ text }) => text),
    );
    t.is(code, 0, stderr);
    t.is(errors.length, all.length);
    // The Node.js client also emits an error for an answer without a request.
    const others = all.filter(({ isWrong, isAnswer }, n) =>
      isAnswer ? errors[n] > 1 || (isWrong && errors[n] === 0) : errors[n] !== Number(isWrong),
    );
    t.deepEqual(
      others.map(({ name }) => name),
      [],
    );
  });

  test(`${kind}: a registration is accepted with an id and a version of any type`, async (t) => {
    const registered = texts.map(
      (text) => `{"action":"registered","id":${text},"protocol":${text}}`,
    );
    const { code, errors } = await play(t, kind, registered);
    t.deepEqual([code, errors], [0, registered.map(() => 0)]);
  });

  test(`${kind}: an error frame is one error, whatever its members`, async (t) => {
    const failed = texts.flatMap((text) => [
      `{"action":"error","code":${text},"message":"text"}`,
      `{"action":"error","code":"CODE","message":${text}}`,
      `{"action":"error","code":"CODE","message":"text","ref":${text}}`,
      `{"action":"error","code":"CODE","message":"text","ack":${text}}`,
    ]);
    const { code, errors } = await play(t, kind, failed);
    t.deepEqual([code, errors], [0, failed.map(() => 1)]);
  });

  test(`${kind}: a client leaves a draining server whose goaway frame is invalid`, async (t) => {
    let connections = 0;
    const server = await startServer(t, (socket) => {
      connections += 1;
      if (connections === 1) {
        for (const text of texts) socket.send(`{"action":"goaway","within":${text}}`);
      } else {
        socket.send(say('end'));
      }
    });
    t.like(await run(t, kind, server, 'reconnect'), { code: 0 });
    t.is(connections, 2);
  });

  test(`${kind}: a frame that is not an action is one error, and the connection stays open`, async (t) => {
    const rubbish = [
      ...texts,
      '',
      '{',
      '[]',
      ends('[', ']', DEEP),
      '{"action":"constructor"}',
      '{"action":"__proto__"}',
      '{"action":"handleFrame"}',
      '{"action":"reportPeerError"}',
      // As in version 1, the addon accepts an array with one text in place of the text.
      ...(kind === 'browser' ? ['{"action":["message"],"message":1}'] : []),
      Buffer.from('binary'),
    ];
    const { code, errors } = await play(t, kind, rubbish);
    t.deepEqual([code, errors], [0, rubbish.map(() => 1)]);
  });

  test(`${kind}: messages of any depth arrive`, async (t) => {
    const messages = [
      ends('[', ']', DEEP),
      ends('{"a":', '}', DEEP).replace('}', '1}'),
      `[${'{},'.repeat(DEEP)}{}]`,
      `{${ends('"__proto__":{', '}', 1000)}}`,
    ].map((text) => `{"action":"message","message":${text},"ack":"k","from":"peer"}`);
    const { code, errors } = await play(t, kind, messages);
    t.deepEqual([code, errors], [0, [0, 0, 0, 0]]);
  });

  test(`${kind}: the text of an ack is returned unchanged`, async (t) => {
    const acks = [...texts, ...ACKS].filter(({ length }) => length < 49_152);
    const answers = [];
    const server = await startServer(t, (socket) => {
      socket.on('message', (text) => answers.push(String(text)));
      for (const ack of acks) {
        for (const from of FROM) {
          socket.send(`{"action":"message","message":{"a":1,"ack":2},"ack":${ack}${from}}`);
        }
      }
      socket.send(say('end'));
    });
    t.like(await run(t, kind, server), { code: 0 });
    const falsy = ['null', '0', '-0', '""'];
    const expected = acks
      .filter((ack) => !falsy.includes(ack))
      .flatMap((ack) =>
        FROM.map(() => `{"action":"answer","ack":${ack},"message":1,"from":"client"}`),
      );
    t.is(answers.length, expected.length);
    const others = answers.filter((answer, n) => answer !== expected[n]);
    t.deepEqual(
      others.map((answer) => answer.slice(0, 100)),
      [],
    );
  });

  test(`${kind}: an ack that is too long is one error, and is not stored`, async (t) => {
    const long = 'x'.repeat(49_150);
    const messages = [long, `${long}x`, `${long}${long}`].map(
      (ack) => `{"action":"message","message":1,"ack":"${ack}","from":"peer"}`,
    );
    const { code, errors } = await play(t, kind, messages);
    t.deepEqual([code, errors], [0, [0, 1, 1]]);
  });

  test(`${kind}: a receipt settles only a delivery, an answer only a request`, async (t) => {
    const server = await startServer(t, (socket) => {
      socket.on('message', (text) => {
        const { ack, ref } = JSON.parse(text);
        const key = JSON.stringify(ack ?? ref);
        // The reply that does not match comes first.
        const replies = [
          `{"action":"receipt","ref":${key},"delivered":null,"failed":null}`,
          `{"action":"answer","ack":${key},"message":1,"from":"a"}`,
        ];
        for (const reply of ack ? replies : replies.reverse()) socket.send(reply);
      });
    });
    const client = await join(t, kind, server, 'client');
    client.on('error', () => {});
    t.deepEqual(await client.request('a', 'a'), { from: 'a', message: 1 });
    const { answers, failed } = await client.requestAll('a', ['a']);
    t.deepEqual([[...answers], [...failed]], [[['a', 1]], []]);
    t.deepEqual(await client.deliver('a', 'a'), { delivered: [], failed: new Map() });
  });
}
