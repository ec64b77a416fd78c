'use strict';

// Malicious peers, servers and listeners: a client continues, or ends normally.

const { once } = require('node:events');
const test = require('ava');
const { WebSocket, WebSocketServer } = require('ws');
const { startServer } = require('./support/start');
const { startRelay } = require('./support/relay');
const { kinds, urlOf, open, join, failure, awaited } = require('./support/clients');

const QUICK = { minDelay: 5, maxDelay: 20 };

/** JSON values that JavaScript cannot convert to strings. */
const UNSPEAKABLE = ['{"toString":0}', `${'['.repeat(50_000)}${']'.repeat(50_000)}`];

/** A peer that writes its own frames. */
async function startPeer(t, server, id) {
  const peer = new WebSocket(urlOf(server));
  t.teardown(() => peer.terminate());
  await once(peer, 'open');
  peer.send(`{"action":"register","id":"${id}","protocol":2}`);
  await once(peer, 'message');
  return peer;
}

/** A played server that calls `heard(frame, socket)` for each frame after the registration. */
async function startPlayed(t, heard) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.teardown(() => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  server.on('connection', (socket) => {
    socket.on('message', (text) => {
      const frame = JSON.parse(text);
      if (frame.action === 'register') {
        socket.send('{"action":"registered","id":"client","protocol":2}');
      } else {
        heard(frame, socket);
      }
    });
  });
  await once(server, 'listening');
  return server;
}

/** Collects uncaught exceptions. */
function catchUncaught(t) {
  const caught = [];
  const listener = (error) => caught.push(error);
  const others = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', listener);
  t.teardown(() => {
    process.removeListener('uncaughtException', listener);
    for (const other of others) process.on('uncaughtException', other);
  });
  return caught;
}

for (const kind of kinds) {
  test(`${kind}: an error that cannot be converted to a string fails its request only`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const peer = await startPeer(t, server, 'peer');
    let error;
    peer.on('message', (text) => {
      const { ack } = JSON.parse(text);
      peer.send(`{"action":"answer","ack":"${ack}","error":${error}}`);
    });
    for (const value of UNSPEAKABLE) {
      for (const shown of [value, `{"code":${value}}`, `{"message":${value}}`]) {
        error = shown;
        const refused = await failure(client.request(1, 'peer'));
        t.true(refused.error instanceof Error);
        t.deepEqual([typeof refused.code, typeof refused.message], ['string', 'string']);
      }
    }
    error = '{"code":"constructor"}';
    t.is((await failure(client.request(1, 'peer'))).code, 'constructor');
    t.is(awaited(client), 0);
  });

  test(`${kind}: values of a server that cannot be converted to strings fail their call only`, async (t) => {
    for (const value of UNSPEAKABLE) {
      const server = await startPlayed(t, ({ ack, ref, message }, socket) => {
        const about = ack === undefined ? `"ref":${ref}` : `"ack":"${ack}"`;
        const frames = {
          failed: `{"action":"failed",${about},"dest":${value},"code":${value}}`,
          error: `{"action":"error","code":${value},"message":${value},${about}}`,
          receipt: `{"action":"receipt",${about},"delivered":[],"failed":{"a":${value}}}`,
        };
        socket.send(frames[message]);
      });
      const client = await open(t, kind, 'client', urlOf(server)).connected();
      for (const frame of ['failed', 'error']) {
        const { error } = await failure(client.request(frame, 'a'));
        t.is(typeof error.code, 'string');
      }
      t.is(typeof (await failure(client.deliver('error', 'a'))).code, 'string');
      t.is((await failure(client.deliver('receipt', 'a'))).code, 'ERR_WSMB_MEMBER');
      t.is(awaited(client), 0);
    }
  });

  test(`${kind}: a code that is a property name of objects is passed on`, async (t) => {
    const server = await startPlayed(t, ({ ack }, socket) => {
      socket.send(`{"action":"failed","ack":"${ack}","dest":"a","code":"constructor"}`);
    });
    const client = await open(t, kind, 'client', urlOf(server)).connected();
    const { code, message } = await failure(client.request(1, 'a'));
    t.deepEqual([code, message], ['constructor', '"a": constructor']);
  });

  test(`${kind}: a client that is closed while its token is pending never connects`, async (t) => {
    const server = await startServer(t);
    const opened = [];
    const ends = [(client) => client.close(), (client, control) => control.abort(client)];
    for (const end of ends) {
      const control = new AbortController();
      const options = { token: () => 'given', signal: control.signal };
      const client = open(t, kind, 'client', urlOf(server), options);
      client.on('open', () => opened.push('open'));
      const closed = once(client, 'close');
      end(client, control);
      await closed;
    }
    let giveUp;
    const token = () =>
      new Promise((_, reject) => {
        giveUp = reject;
      });
    const client = open(t, kind, 'client', urlOf(server), { token });
    const seen = [];
    for (const name of ['error', 'close']) client.on(name, () => seen.push(name));
    await client.close();
    giveUp(new Error('too late'));
    // The server has no other id, and gets no further one.
    const other = await join(t, kind, server, 'other');
    t.deepEqual(server.ids(), ['other']);
    t.is(server.stats().accepted, 1);
    await other.close();
    t.deepEqual([opened, seen], [[], ['close']]);
  });

  test(`${kind}: a full stream does not prevent a new registration`, async (t) => {
    const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    t.teardown(() => server.close());
    const registered = '{"action":"registered","id":"client","protocol":2}';
    const again = new Promise((resolve) => {
      let connections = 0;
      server.on('connection', (socket) => {
        connections += 1;
        const isFirst = connections === 1;
        socket.once('message', () => {
          if (isFirst) {
            socket.send(registered);
            socket.send('{"action":"message","message":"first","from":"a"}');
          } else {
            resolve(socket);
          }
        });
        // The client does not read, but detects the end because it writes.
        if (isFirst) socket.on('message', () => socket.terminate());
      });
    });
    await once(server, 'listening');
    const client = open(t, kind, 'client', urlOf(server), { reconnect: QUICK });
    t.throws(() => client.messages({ highWaterMark: 0 }), { code: 'ERR_WSMB_OPTION' });
    const messages = client.messages({ highWaterMark: 1 });
    await once(client, 'message');
    const writes = setInterval(() => client.send('x', 'a'), 5);
    const socket = await again;
    clearInterval(writes);
    // The request times out before the registration.
    t.is((await failure(client.request(1, 'a', { timeout: 1 }))).code, 'TIMEOUT');
    socket.send(registered);
    await client.connected();
    t.is((await messages.next()).value.message, 'first');
    t.teardown(() => socket.terminate());
  });

  test(`${kind}: answers are counted even if their senders have no id`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const nameless = [];
    const arrived = [...Array(2).keys()].map(async (n) => {
      const peer = await startPeer(t, server, `peer ${n}`);
      const message = once(peer, 'message');
      nameless.push(`peer ${n}`);
      return async () => {
        const { ack } = JSON.parse((await message)[0]);
        peer.send('{"action":"unregister"}');
        await once(peer, 'message');
        peer.send(`{"action":"answer","ack":"${ack}","message":${n}}`);
      };
    });
    const answers = await Promise.all(arrived);
    await startPeer(t, server, 'silent');
    const options = { count: 2, timeout: Number.POSITIVE_INFINITY };
    const gathered = client.requestAll(1, [...nameless, 'silent'], options);
    for (const answer of answers) await answer();
    await gathered;
    t.is(awaited(client), 0);
    t.is(server.stats().pending, 0);
  });

  test.serial(`${kind}: a client with a pending callback leaves a draining server`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client', { reconnect: QUICK });
    const peer = await startPeer(t, server, 'peer');
    const asked = once(peer, 'message');
    client.send(1, 'peer', () => t.fail('answered'));
    await asked;
    const left = once(client, 'reconnecting');
    const told = once(client, 'goaway');
    // Sets the delay before it leaves to zero.
    const { random } = Math;
    t.teardown(() => {
      Math.random = random;
    });
    Math.random = () => 0;
    server.close({ drain: 60_000 });
    await told;
    await new Promise((resolve) => setTimeout(resolve, 5));
    t.is(awaited(client), 1);
    peer.terminate();
    await left;
    t.is(awaited(client), 0);
  });

  test.serial(`${kind}: close follows even if the error listener throws`, async (t) => {
    const caught = catchUncaught(t);
    const server = await startServer(t, { authenticate: () => false });
    const client = open(t, kind, 'client', urlOf(server));
    client.on('error', () => {
      throw new Error('by the listener');
    });
    t.is(await new Promise((resolve) => client.on('close', resolve)), 4401);
    t.deepEqual(
      caught.map(({ message }) => message),
      ['by the listener'],
    );
  });

  test(`${kind}: a stream of one message at a time works, and one of none is refused`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const messages = client.messages({ highWaterMark: 1 });
    for (let n = 0; n < 3; n += 1) {
      client.send(n, 'client');
      t.is((await messages.next()).value.message, n);
    }
    t.truthy(client.messages(null));
  });
}

test.serial('addon: an exception of one listener does not prevent other events', async (t) => {
  const caught = catchUncaught(t);
  const server = await startServer(t);
  const line = await startRelay(t, server);
  const client = await join(t, 'addon', line, 'client', { reconnect: QUICK });
  client.on('registered', () => {
    throw new Error('registered');
  });
  client.on('goaway', () => {
    throw new Error('goaway');
  });
  const back = once(client, 'reconnected');
  line.cut();
  line.mend();
  await back;
  const left = new Promise((resolve) => client.on('reconnecting', resolve));
  server.close({ drain: 50 });
  await left;
  t.deepEqual(
    caught.map(({ message }) => message),
    ['registered', 'goaway'],
  );
});

test('browser: a silent server times out, even without listeners', async (t) => {
  const silent = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  t.teardown(() => silent.close());
  await once(silent, 'listening');
  const options = { connectTimeout: 20 };
  const client = open(t, 'browser', 'client', urlOf(silent), options);
  const closed = new Promise((resolve) => client.on('close', resolve));
  t.is((await failure(client.connected())).code, 'ETIMEDOUT');
  t.is(await closed, 1006);
});

test('a resent request is accepted while the server still has the lost connection', async (t) => {
  for (const kind of kinds) {
    const server = await startServer(t);
    const line = await startRelay(t, server);
    const options = { reconnect: QUICK, resend: 'requests' };
    const client = await join(t, kind, line, 'client', options);
    const peer = await startPeer(t, server, 'peer');
    const acks = [];
    peer.on('message', (text) => {
      const { ack } = JSON.parse(text);
      if (ack === undefined) return;
      acks.push(ack);
      if (acks.length === 2) peer.send(`{"action":"answer","ack":"${ack}","message":"here"}`);
    });
    const asked = client.request(1, 'peer');
    while (acks.length === 0) await once(peer, 'message');
    // Only the client's half of the connection.
    line.cutNear();
    t.is((await asked).message, 'here');
    t.is(awaited(client), 0);
    t.is(server.stats().accepted, 3);
  }
});
