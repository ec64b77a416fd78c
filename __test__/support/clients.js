'use strict';

// Both version 2 clients, so that tests cover each of them: the addon's client, and the browser client on the
// WebSocket of `ws`.

const { WebSocket } = require('ws');
const Browser = require('../../lib/browser');
const { kSession } = require('../../lib/client/methods');
const { WSMsgBroker } = require('./start');

const KINDS = {
  addon: (id, url, options) => new WSMsgBroker(id, url, { protocol: 2, ...options }),
  browser: (id, url, options) => new Browser(id, url, { WebSocket, ...options }),
};

/** The URL of a server. */
function urlOf(server) {
  return `ws://127.0.0.1:${server.address().port}/`;
}

/** A client that is closed when the test ends. */
function open(t, kind, id, url, options) {
  const client = KINDS[kind](id, url, options);
  t.teardown(() => client.close());
  return client;
}

/** A registered client. */
function join(t, kind, server, id, options) {
  return open(t, kind, id, urlOf(server), options).connected();
}

/** A client that calls `answer` for each message. */
async function answering(t, kind, server, id, answer) {
  const client = await join(t, kind, server, id);
  client.on('message', (message, response, from) => answer(response, message, from));
  return client;
}

/** Resolves when the server has no pending requests. */
async function settled(server) {
  while (server.stats().pending > 0) await new Promise(setImmediate);
}

/** The error of a rejected promise with its code and message. */
async function failure(promise) {
  const error = await promise.then(
    (value) => {
      throw new Error(`not rejected, but ${JSON.stringify(value)}`);
    },
    (reason) => reason,
  );
  return { code: error.code, message: error.message, from: error.from, error };
}

/** A receipt with codes instead of errors: codes by id. */
async function receiptCodes(receipt) {
  const { delivered, failed } = await receipt;
  return { delivered, failed: Object.fromEntries([...failed].map(([id, { code }]) => [id, code])) };
}

/** Resolves when a client was closed after an error, with both codes. */
function refused(client) {
  let code;
  client.once('error', (error) => {
    ({ code } = error);
  });
  return new Promise((resolve) => {
    client.once('close', (closed) => resolve([code, closed]));
  });
}

/** The number of pending answers and receipts of a client. */
function awaited(client) {
  return client[kSession].requests.size;
}

/** Resolves when the signal is aborted, with the code of its reason. */
function aborted(signal) {
  return new Promise((resolve) => {
    const end = () => resolve(signal.reason.code);
    if (signal.aborted) end();
    else signal.addEventListener('abort', end, { once: true });
  });
}

module.exports = {
  kinds: Object.keys(KINDS),
  urlOf,
  open,
  join,
  answering,
  settled,
  failure,
  receiptCodes,
  refused,
  awaited,
  aborted,
};
