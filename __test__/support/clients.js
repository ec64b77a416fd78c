'use strict';

// Both clients of version 2, so that what is promised of one is tested of the other: the addon's, and the
// browser's on the WebSocket of `ws`.

const { WebSocket } = require('ws');
const Browser = require('../../lib/browser');
const { kSession } = require('../../lib/client/methods');
const { WSMsgBroker } = require('./start');

const KINDS = {
  addon: (id, url, options) => new WSMsgBroker(id, url, { protocol: 2, ...options }),
  browser: (id, url, options) => new Browser(id, url, { WebSocket, ...options }),
};

/** Where a server listens. */
function urlOf(server) {
  return `ws://127.0.0.1:${server.address().port}/`;
}

/** A client that is closed when the test ends. */
function open(t, kind, id, url, options) {
  const client = KINDS[kind](id, url, options);
  t.teardown(() => client.close());
  return client;
}

/** One that is registered. */
function join(t, kind, server, id, options) {
  return open(t, kind, id, urlOf(server), options).connected();
}

/** A client that answers each message by what the function makes of it. */
async function answering(t, kind, server, id, answer) {
  const client = await join(t, kind, server, id);
  client.on('message', (message, response, from) => answer(response, message, from));
  return client;
}

/** Resolves when the server has nothing pending any more. */
async function settled(server) {
  while (server.stats().pending > 0) await new Promise(setImmediate);
}

/** What a promise rejects with, in short. */
async function failure(promise) {
  const error = await promise.then(
    (value) => {
      throw new Error(`not rejected, but ${JSON.stringify(value)}`);
    },
    (reason) => reason,
  );
  return { code: error.code, message: error.message, from: error.from, error };
}

/** A receipt in short: codes by id. */
async function told(receipt) {
  const { delivered, failed } = await receipt;
  return { delivered, failed: Object.fromEntries([...failed].map(([id, { code }]) => [id, code])) };
}

/** Resolves when a client was closed after an error, with the codes of both. */
function refused(client) {
  let code;
  client.once('error', (error) => {
    ({ code } = error);
  });
  return new Promise((resolve) => {
    client.once('close', (closed) => resolve([code, closed]));
  });
}

/** How many answers and receipts a client awaits. */
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
  told,
  refused,
  awaited,
  aborted,
};
