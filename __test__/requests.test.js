'use strict';

// Promises of a client: requests, receipts, and their errors.

const { once } = require('node:events');
const test = require('ava');
const { WebSocket, WebSocketServer } = require('ws');
const { startLasting, startServer } = require('./support/start');
const clients = require('./support/clients');

const { kinds, urlOf, open, join, answering, settled, failure, receiptCodes, awaited, aborted } =
  clients;

/** A promise with the function that resolves it. */
function deferred() {
  const made = {};
  made.promise = new Promise((resolve) => {
    made.resolve = resolve;
  });
  return made;
}

for (const kind of kinds) {
  test(`${kind}: a request resolves with the answer and its sender`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    await answering(t, kind, server, 'answerer', (response, n, from) => response.send([n, from]));
    const asked = [...Array(300).keys()].map((n) => asker.request(n, 'answerer'));
    const expected = (n) => ({ from: 'answerer', message: [n, 'asker'] });
    t.deepEqual(await Promise.all(asked), [...Array(300).keys()].map(expected));
    t.is(awaited(asker), 0);
    t.is(server.stats().pending, 0);
  });

  test(`${kind}: the fastest answer wins, and the other responders are aborted`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const loser = deferred();
    const asked = deferred();
    await answering(t, kind, server, 'slow', (response) => {
      loser.resolve(aborted(response.signal));
      asked.resolve();
    });
    await answering(t, kind, server, 'fast', (response) =>
      asked.promise.then(() => response.send(1)),
    );
    const outcome = await asker.request('x', ['slow', 'nobody', 'fast']);
    t.deepEqual(outcome, { from: 'fast', message: 1 });
    t.is(await loser.promise, 'ERR_WSMB_CANCELLED');
    t.is(awaited(asker), 0);
  });

  test(`${kind}: a request fails as soon as it has no responder`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const unknown = await failure(asker.request(1, 'nobody'));
    t.is(unknown.code, 'UNKNOWN_ID');
    t.true(unknown.error instanceof Error);
    t.regex(unknown.message, /"nobody"/);
    t.is((await failure(asker.request(1, ['x', 'y']))).code, 'UNKNOWN_ID');

    const leaving = await answering(t, kind, server, 'leaving', () => leaving.close());
    t.is((await failure(asker.request(1, 'leaving'))).code, 'GONE');

    await answering(t, kind, server, 'taken', () => join(t, kind, server, 'taken'));
    t.is((await failure(asker.request(1, ['nobody', 'taken']))).code, 'REPLACED');
    t.is(awaited(asker), 0);
    t.is(server.stats().pending, 0);
  });

  test(`${kind}: a rejection is the responder's own error, unless another responder answers`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const refused = deferred();
    await answering(t, kind, server, 'strict', (response, how) => {
      if (how === 'text') response.reject('not today');
      else response.reject(Object.assign(new Error('too big'), { code: 'E_BIG' }));
      refused.resolve();
    });
    await answering(t, kind, server, 'kind', (response) =>
      refused.promise.then(() => response.send('fine')),
    );
    const { code, message, from } = await failure(asker.request('error', 'strict'));
    t.deepEqual([code, message, from], ['E_BIG', 'too big', 'strict']);
    const text = await failure(asker.request('text', 'strict'));
    t.deepEqual([text.code, text.message], ['ERR_WSMB_REJECTED', 'not today']);
    t.is((await asker.request('error', ['strict', 'kind'])).message, 'fine');
  });

  test(`${kind}: a request that times out fails, and its responder is aborted`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const idle = deferred();
    await answering(t, kind, server, 'idle', (response) => idle.resolve(aborted(response.signal)));
    t.is((await failure(asker.request(1, 'idle', { timeout: 20 }))).code, 'TIMEOUT');
    t.is(await idle.promise, 'ERR_WSMB_CANCELLED');
    await settled(server);
    t.is(awaited(asker), 0);
    const quick = await join(t, kind, server, 'quick', { requestTimeout: 10 });
    t.is((await failure(quick.request(1, 'idle'))).code, 'TIMEOUT');
  });

  test(`${kind}: a signal aborts a request, and its responder is aborted`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const idle = deferred();
    const arrived = deferred();
    await answering(t, kind, server, 'idle', (response) => {
      idle.resolve(aborted(response.signal));
      arrived.resolve();
    });
    const control = new AbortController();
    const asked = failure(asker.request(1, 'idle', { signal: control.signal }));
    await arrived.promise;
    control.abort('enough');
    const { code, error } = await asked;
    t.deepEqual([code, error.name, error.cause], ['ABORT_ERR', 'AbortError', 'enough']);
    t.is(await idle.promise, 'ERR_WSMB_CANCELLED');
    await settled(server);
    const before = server.stats().messagesIn;
    t.is((await failure(asker.request(1, 'idle', control))).code, 'ABORT_ERR');
    t.is(server.stats().messagesIn, before);
    t.is(awaited(asker), 0);
  });

  test(`${kind}: requestAll gathers all answers and the errors of the others`, async (t) => {
    const server = await startServer(t);
    const asker = open(t, kind, 'asker', urlOf(server));
    await answering(t, kind, server, 'a', (response, n) => response.send(n + 1));
    await answering(t, kind, server, 'b', (response, n) => response.send(n + 2));
    await answering(t, kind, server, 'no', (response) => response.reject(new Error('busy')));
    await answering(t, kind, server, 'idle', () => {});
    // Before the server has announced its protocol version.
    const early = await asker.requestAll(1, ['a', 'b']);
    t.deepEqual([early.answers.get('a'), early.answers.get('b'), early.failed.size], [2, 3, 0]);
    const ids = ['a', 'b', 'no', 'idle', 'nobody', 'a'];
    const { answers, failed } = await asker.requestAll(5, ids, { timeout: 300 });
    t.deepEqual([answers.get('a'), answers.get('b'), answers.size], [6, 7, 2]);
    t.deepEqual([...failed].map(([id, error]) => [id, error.code]).sort(), [
      ['idle', 'TIMEOUT'],
      ['no', 'ERR_WSMB_REJECTED'],
      ['nobody', 'UNKNOWN_ID'],
    ]);
    t.is(failed.get('no').message, 'busy');
    t.deepEqual(await asker.requestAll(1, []), { answers: new Map(), failed: new Map() });
    await settled(server);
    t.is(awaited(asker), 0);
  });

  test(`${kind}: requestAll resolves after enough answers, and aborts the other responders`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const idle = deferred();
    const arrived = deferred();
    const late = (response) => arrived.promise.then(() => response.send(1));
    await answering(t, kind, server, 'a', late);
    await answering(t, kind, server, 'b', late);
    await answering(t, kind, server, 'idle', (response) => {
      idle.resolve(aborted(response.signal));
      arrived.resolve();
    });
    const { answers, failed } = await asker.requestAll(1, ['a', 'b', 'idle'], { count: 2 });
    t.deepEqual([[...answers.keys()].sort(), failed.size], [['a', 'b'], 0]);
    t.is(await idle.promise, 'ERR_WSMB_CANCELLED');
    t.is(server.stats().pending, 0);
  });

  test(`${kind}: a callback without remaining responders is forgotten`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    await answering(t, kind, server, 'no', (response) => response.reject('no'));
    client.send(1, ['nobody', 'no'], () => t.fail('nobody answers'));
    client.send(1, 'nobody', () => t.fail('nobody answers'));
    t.is(awaited(client), 2);
    // The last answer arrives after the failures of the others.
    while (awaited(client) > 0) await failure(client.request(1, 'no'));
    t.pass();
  });

  test(`${kind}: a receipt lists the ids to which a message was delivered`, async (t) => {
    const server = await startServer(t, { maxDest: 4 });
    const sender = await join(t, kind, server, 'sender');
    const receiver = await join(t, kind, server, 'receiver');
    await join(t, kind, server, '__proto__');
    const heard = once(receiver, 'message');
    t.deepEqual(
      await receiptCodes(sender.deliver('x', ['receiver', 'constructor', '__proto__', 'receiver'])),
      {
        delivered: ['receiver', '__proto__'],
        failed: { constructor: 'UNKNOWN_ID' },
      },
    );
    t.is((await heard)[0], 'x');
    t.deepEqual(await sender.deliver('x', []), { delivered: [], failed: new Map() });
    const { code, message } = await failure(sender.deliver('x', ['1', '2', '3', '4', '5']));
    t.is(code, 'ERR_WSMB_MAX_DEST');
    t.regex(message, /maxDest/);
    t.is((await failure(sender.request('x', ['1', '2', '3', '4', '5']))).code, 'ERR_WSMB_MAX_DEST');
    t.is(awaited(sender), 0);
  });

  test(`${kind}: a receipt has the code SLOW for a slow receiver`, async (t) => {
    const server = await startServer(t, { slowConsumer: 'drop', maxBackpressure: 65_536 });
    const sender = await join(t, kind, server, 'sender');
    const deaf = new WebSocket(urlOf(server));
    t.teardown(() => deaf.terminate());
    await once(deaf, 'open');
    deaf.send('{"action":"register","id":"deaf"}');
    await once(deaf, 'message');
    deaf.pause();
    const text = 'x'.repeat(60_000);
    let outcome;
    do {
      outcome = await receiptCodes(sender.deliver(text, 'deaf'));
    } while (outcome.delivered.length > 0);
    t.deepEqual(outcome, { delivered: [], failed: { deaf: 'SLOW' } });
    t.is((await failure(sender.request(text, 'deaf'))).code, 'SLOW');
  });

  test(`${kind}: invalid arguments are rejected before anything is sent`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const { messagesIn } = server.stats();
    const cyclic = {};
    cyclic.self = cyclic;
    for (const message of [undefined, () => {}, 1n, cyclic]) {
      t.is((await failure(client.request(message, 'a'))).code, 'ERR_WSMB_MESSAGE');
      t.is((await failure(client.deliver(message, 'a'))).code, 'ERR_WSMB_MESSAGE');
    }
    for (const dest of [undefined, null, {}, [['a', {}]], true]) {
      t.is((await failure(client.request(1, dest))).code, 'ERR_WSMB_DEST');
      t.is((await failure(client.deliver(1, dest))).code, 'ERR_WSMB_DEST');
    }
    t.is((await failure(client.request(1, []))).code, 'UNKNOWN_ID');
    for (const options of [{ timeout: 0 }, { timeout: -1 }, { timeout: 'x' }, { signal: 1 }]) {
      t.is((await failure(client.request(1, 'a', options))).code, 'ERR_WSMB_OPTION');
    }
    t.is((await failure(client.requestAll(1, ['a'], { count: 0 }))).code, 'ERR_WSMB_OPTION');
    t.is(awaited(client), 0);
    t.is(server.stats().messagesIn, messagesIn);
  });

  test(`${kind}: an invalid id is rejected, and requests without a registration fail`, async (t) => {
    const server = await startServer(t, { maxIdLength: 20 });
    for (const id of [undefined, null, '', 0, Number.NaN, {}, [], true, Symbol('x')]) {
      const code = 'ERR_WSMB_ID';
      t.throws(() => open(t, kind, id, urlOf(server)), { code, instanceOf: TypeError });
    }
    const long = open(t, kind, 'x'.repeat(21), urlOf(server));
    t.is((await failure(long.connected())).code, 'ERR_WSMB_MAX_ID_LENGTH');
    const client = await join(t, kind, server, 5);
    await answering(t, kind, server, 'a', (response) => response?.send('here'));
    client.unregister();
    await once(client, 'unregistered');
    t.is((await failure(client.request(1, 'a'))).code, 'ERR_WSMB_NOT_REGISTERED');
    t.deepEqual((await client.deliver(1, 'a')).delivered, ['a']);
    client.register();
    await client.connected();
    t.is((await client.request(1, 'a')).message, 'here');
  });

  test(`${kind}: send of version 2 validates its arguments`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    for (const message of [undefined, () => {}, 1n]) {
      t.throws(() => client.send(message, 'a'), { code: 'ERR_WSMB_MESSAGE' });
    }
    for (const dest of [undefined, null, {}, ['a', null]]) {
      t.throws(() => client.send(1, dest), { code: 'ERR_WSMB_DEST' });
    }
  });

  test(`${kind}: pending requests and receipts fail when the connection ends`, async (t) => {
    const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    t.teardown(() => server.close());
    server.on('connection', (socket) => {
      let frames = 0;
      socket.on('message', () => {
        frames += 1;
        if (frames === 1) socket.send('{"action":"registered","id":"client","protocol":2}');
        if (frames === 4) socket.terminate();
      });
    });
    await once(server, 'listening');
    const client = await open(t, kind, 'client', urlOf(server)).connected();
    const asked = failure(client.request(1, 'a'));
    const delivered = failure(client.deliver(1, 'a'));
    const { answers, failed } = await client.requestAll(1, ['a', 'b'], { count: 1 });
    t.is((await asked).code, 'ERR_WSMB_CONNECTION_LOST');
    t.is((await delivered).code, 'ERR_WSMB_CONNECTION_LOST');
    t.deepEqual([answers.size, [...failed.keys()]], [0, ['a', 'b']]);
    t.is(failed.get('b').code, 'ERR_WSMB_CONNECTION_LOST');
    t.is((await failure(client.request(1, 'a'))).code, 'ERR_WSMB_NOT_OPEN');
    t.is((await failure(client.deliver(1, 'a'))).code, 'ERR_WSMB_NOT_OPEN');
    t.is((await failure(client.connected())).code, 'ERR_WSMB_CONNECTION_LOST');
    t.is(awaited(client), 0);
  });

  test(`${kind}: pending requests fail when the program closes the client`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    await answering(t, kind, server, 'idle', () => {});
    const asked = failure(client.request(1, 'idle'));
    await client.close();
    t.is((await asked).code, 'ERR_WSMB_CLOSED');
  });

  test(`${kind}: a failed connection needs no error listener if its promise is awaited`, async (t) => {
    const server = await startLasting(t);
    const url = urlOf(server);
    await server.close();
    const client = open(t, kind, 'client', url);
    const { code, message } = await failure(client.connected());
    t.is(code, kind === 'addon' ? 'ECONNREFUSED' : 'ERR_WSMB_CONNECT');
    t.regex(message, /127\.0\.0\.1/);
    const asking = open(t, kind, 'asking', url);
    t.is((await failure(asking.request(1, 'a'))).code, code);
  });

  test(`${kind}: a signal closes the client`, async (t) => {
    const server = await startServer(t);
    const control = new AbortController();
    const client = await join(t, kind, server, 'client', { signal: control.signal });
    await answering(t, kind, server, 'idle', () => {});
    const asked = failure(client.request(1, 'idle'));
    const closed = once(client, 'close');
    control.abort();
    await closed;
    t.is((await asked).code, 'ABORT_ERR');
    const never = open(t, kind, 'never', urlOf(server), { signal: control.signal });
    t.is((await failure(never.connected())).code, 'ABORT_ERR');
    await never.close();
    t.deepEqual(server.ids?.() ?? ['idle'], ['idle']);
  });

  test(`${kind}: asynchronous disposal closes the client`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'client');
    const closed = once(client, 'close');
    await client[Symbol.asyncDispose ?? Symbol.for('nodejs.asyncDispose')]();
    t.is((await closed)[0], 1000);
  });
}
