'use strict';

// The client in a page of a real browser, with Node.js clients as its peers.

const fs = require('node:fs');
const path = require('node:path');
const { once } = require('node:events');
const test = require('ava');
const { authority } = require('../../testkit/certificates');
const { openPage, startChromium } = require('../../testkit/chromium');
const { startSite } = require('../../testkit/site');
const { registration, startClient, startLasting, startServer } = require('../support/start');

const chromium = startChromium(test);
const script = fs.readFileSync(path.join(__dirname, '../../browser/wsmsgbroker.js'));
const FILES = { '/': '<script src="/client.js"></script>', '/client.js': script };

/** For every step that might hang, so that the failed test names the step. */
const timeout = 30_000;

const addressOf = (server, scheme = 'ws') => `${scheme}://127.0.0.1:${server.address().port}/`;

/** A version 2 client in this process. */
const startNode = (t, server, id = 'node') => startClient(t, server, id, { protocol: 2 });

/** A page with a connected client of the id `page`, as its global `client`. */
async function startPage(t, address, { tls, options = {} } = {}) {
  const page = await openPage(t, await chromium.context(t), FILES, { tls });
  await page.evaluate(
    async ([address, options]) => {
      window.client = new window.WSMsgBroker('page', address, options);
      await window.client.connected();
    },
    [address, options],
  );
  return page;
}

/** Makes the page answer each request with the request and its sender. */
const answerAll = (page) =>
  page.evaluate(() => {
    window.client.on('message', (message, response, from) => response?.send({ message, from }));
  });

/** Makes the page send a request. Returns its answer or its error. */
const ask = (page, ...args) =>
  page.evaluate(async (args) => {
    try {
      return { answer: await window.client.request(...args) };
    } catch ({ name, code, message }) {
      return { name, code, message };
    }
  }, args);

test('a page and a Node.js client send each other messages', async (t) => {
  const server = await startServer(t);
  const node = await startNode(t, server);
  const page = await startPage(t, addressOf(server));
  await page.evaluate(() => {
    window.heard = new Promise((resolve) => {
      window.client.once('message', (...args) => resolve(args));
    });
  });
  node.send({ text: 'grüße 🦀' }, ['page']);
  t.deepEqual(await page.evaluate('heard'), [{ text: 'grüße 🦀' }, null, 'node']);

  const heard = once(node, 'message');
  await page.evaluate(() => window.client.send([1, null, { a: true }], 'node'));
  t.deepEqual((await heard).slice(0, 3), [[1, null, { a: true }], null, 'page']);
});

test('a callback gets the answer, in the page and in Node.js', async (t) => {
  const server = await startServer(t);
  const node = await startNode(t, server);
  const page = await startPage(t, addressOf(server));
  await answerAll(page);
  const args = await new Promise((resolve) => {
    node.send('hello', 'page', (...args) => resolve(args));
  });
  t.deepEqual(args, ['page', { message: 'hello', from: 'node' }]);

  node.on('message', (message, response, from) => response.send({ message, from }));
  const inPage = await page.evaluate(
    () =>
      new Promise((resolve) => {
        window.client.send('hello', 'node', (...args) => resolve(args));
      }),
  );
  t.deepEqual(inPage, ['node', { message: 'hello', from: 'page' }]);
});

test('a page requests from Node.js, and Node.js from the page', async (t) => {
  const server = await startServer(t);
  const node = await startNode(t, server);
  const page = await startPage(t, addressOf(server));
  await answerAll(page);
  node.on('message', (message, response, from) => response.send({ message, from }));

  const options = { timeout };
  t.deepEqual(await ask(page, { n: 1 }, 'node', options), {
    answer: { from: 'node', message: { message: { n: 1 }, from: 'page' } },
  });
  const answer = await node.request({ n: 2 }, 'page', options);
  t.is(answer.from, 'page');
  t.deepEqual(answer.message, { message: { n: 2 }, from: 'node' });
});

test('a page gets a receipt for its message', async (t) => {
  const server = await startServer(t);
  await startNode(t, server);
  const page = await startPage(t, addressOf(server));
  const told = await page.evaluate(async () => {
    const { delivered, failed } = await window.client.deliver('hello', ['node', 'nobody']);
    return { delivered, failed: [...failed].map(([id, { code }]) => [id, code]) };
  });
  t.deepEqual(told, { delivered: ['node'], failed: [['nobody', 'UNKNOWN_ID']] });
});

test('a page iterates over its messages', async (t) => {
  const server = await startServer(t);
  const node = await startNode(t, server);
  const page = await startPage(t, addressOf(server));
  await page.evaluate(() => {
    const loop = async () => {
      const seen = [];
      for await (const { message, from, answer } of window.client.messages()) {
        seen.push([from, message]);
        answer(message + 1);
        if (seen.length === 3) return seen;
      }
    };
    window.seen = loop();
  });
  for (const n of [1, 2, 3]) {
    t.is((await node.request(n, 'page', { timeout })).message, n + 1);
  }
  t.deepEqual(await page.evaluate('seen'), [
    ['node', 1],
    ['node', 2],
    ['node', 3],
  ]);
});

test('a request of a page rejects when it is refused, fails or times out', async (t) => {
  const server = await startServer(t);
  const node = await startNode(t, server);
  const page = await startPage(t, addressOf(server));
  const signals = [];
  node.on('message', (message, response) => {
    if (message === 'refuse') {
      response.reject(Object.assign(new Error('not today'), { code: 'ERR_CLOSED_TODAY' }));
    }
    signals.push(response.signal);
  });
  const refused = await ask(page, 'refuse', 'node', { timeout });
  t.like(refused, { code: 'ERR_CLOSED_TODAY', message: 'not today' });
  t.regex((await ask(page, 'hello', 'nobody', { timeout })).code, /UNKNOWN_ID$/);
  t.regex((await ask(page, 'keep', 'node', { timeout: 200 })).code, /TIMEOUT$/);
  await aborted(signals[1]);
});

test('aborting a request in a page aborts its responder', async (t) => {
  const server = await startServer(t);
  const node = await startNode(t, server);
  const page = await startPage(t, addressOf(server));
  const asked = once(node, 'message');
  const given = page.evaluate(async () => {
    window.abort = new AbortController();
    const options = { signal: window.abort.signal };
    return window.client.request('work', 'node', options).catch(({ name }) => name);
  });
  const [, response] = await asked;
  t.false(response.signal.aborted);
  await page.evaluate(() => window.abort.abort());
  t.is(await given, 'AbortError');
  await aborted(response.signal);
});

test('closing a page cancels its requests and fails the requests to it', async (t) => {
  const server = await startServer(t);
  const node = await startNode(t, server);
  const page = await startPage(t, addressOf(server));
  const asked = once(node, 'message');
  await page.evaluate(() => {
    window.client.on('message', () => window.client.send('I have it', 'node'));
    // This request ends with the page.
    window.client.request('work', 'node').catch(() => {});
  });
  const [, response] = await asked;
  const told = once(node, 'message');
  const answer = node.request('work', 'page', { timeout });
  t.is((await told)[0], 'I have it');
  t.false(response.signal.aborted);

  await page.close();
  const error = await t.throwsAsync(answer);
  t.regex(error.code, /GONE$/);
  await aborted(response.signal);
});

test('a page in the background answers', async (t) => {
  const server = await startServer(t);
  const node = await startNode(t, server);
  const address = addressOf(server);
  const program = `
    const client = new WSMsgBroker('page', '${address}');
    client.on('message', (message, response) => response.send([message, document.visibilityState]));
    document.onvisibilitychange = () => client.send(document.visibilityState, 'node');`;
  const html = `<script src="/client.js"></script><script>${program}</script>`;
  const site = await startSite(t, { ...FILES, '/': html });
  const open = await chromium.tabs(t);

  const registered = registration(server, 'page');
  await open(site.url);
  await registered;
  const hidden = new Promise((resolve) => {
    node.on('message', (state) => state === 'hidden' && resolve());
  });
  await open('about:blank');
  await hidden;
  for (const n of [1, 2, 3]) {
    const { message } = await node.request(n, 'page', { timeout });
    t.deepEqual(message, [n, 'hidden']);
  }
});

test('a page reconnects to a restarted broker', async (t) => {
  const first = await startLasting(t);
  const { port } = first.address();
  const page = await startPage(t, addressOf(first), { options: { reconnect: true } });
  await answerAll(page);
  await page.evaluate(() => {
    window.events = [];
    for (const name of ['reconnecting', 'reconnected', 'close']) {
      window.client.on(name, () => window.events.push(name));
    }
  });
  await first.close();
  await page.waitForFunction(() => window.events.includes('reconnecting'));

  const second = await startServer(t, { port });
  await page.waitForFunction(() => window.events.includes('reconnected'));
  const node = await startNode(t, second);
  const { message } = await node.request('hello again', 'page', { timeout });
  t.deepEqual(message, { message: 'hello again', from: 'node' });
  t.false((await page.evaluate('events')).includes('close'));

  node.on('message', (message, response) => response.send(message));
  t.like(await ask(page, 'me too', 'node', { timeout }), { answer: { message: 'me too' } });
});

test('a page served over https connects by wss', async (t) => {
  const { issue } = authority();
  const tls = issue();
  const server = await startServer(t, { tls });
  const page = await startPage(t, addressOf(server, 'wss'), { tls });
  await answerAll(page);
  t.is(await page.evaluate('location.protocol'), 'https:');
  const node = await startClient(t, server, 'node', {
    protocol: 2,
    tls: { rejectUnauthorized: false },
  });
  const { message } = await node.request('hello', 'page', { timeout });
  t.deepEqual(message, { message: 'hello', from: 'node' });
});

test('closing the client of a page disconnects it from the broker', async (t) => {
  const server = await startServer(t);
  const page = await startPage(t, addressOf(server));
  const left = once(server, 'unregistered');
  const code = await page.evaluate(async () => {
    const closed = new Promise((resolve) => {
      window.client.once('close', resolve);
    });
    await window.client.close();
    return closed;
  });
  t.is(code, 1000);
  t.deepEqual(await left, ['page']);
});

/** Resolves when the signal is aborted, or at once if it already is. */
function aborted(signal) {
  return signal.aborted ? undefined : once(signal, 'abort');
}
