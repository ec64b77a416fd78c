'use strict';

// Plays the client conversations of spec/conversations.json with the clients of this package.

const test = require('ava');
const ws = require('ws');
const WSMsgBroker = require('..');
const actor = require('./conversations/actor');
const Stage = require('./conversations/stage');
const { client: conversations } = require('../spec/conversations.json');

// The browser client finds its WebSocket here.
globalThis.WebSocket = ws;
const BrowserClient = require('../lib/browser');

/** A client of this class and its program. */
const start = (Client, id, port, options) =>
  actor(new Client(id, `ws://127.0.0.1:${port}/`, options));

/**
 * The clients under test. `make(id, port, { token, protocol })` returns a client, or a promise of one, with
 * `call(step)` and `nextReport()`, which speak JSON.
 */
const drivers = [
  {
    name: 'native',
    make: (id, port, options) => start(WSMsgBroker, id, port, options),
  },
  {
    name: 'browser',
    make: (id, port, options) => start(BrowserClient, id, port, options),
  },
];

for (const driver of drivers) {
  for (const conversation of conversations) {
    const { name, not = [] } = conversation;
    if (not.includes(driver.name)) continue;
    test.serial(`${driver.name}: ${name}`, async (t) => {
      await Stage.play(driver, conversation);
      t.pass();
    });
  }
}
