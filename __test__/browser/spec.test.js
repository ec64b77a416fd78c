'use strict';

// Plays the client conversations of spec/conversations.json in a page of a real browser.

const fs = require('node:fs');
const path = require('node:path');
const test = require('ava');
const Stage = require('../conversations/stage');
const { openPage, startChromium } = require('../../testkit/chromium');
const { client: conversations } = require('../../spec/conversations.json');

const chromium = startChromium(test);
const read = (file) => fs.readFileSync(path.join(__dirname, file), 'utf8');
const FILES = {
  '/': '<script src="/client.js"></script><script src="/actor.js"></script>',
  '/client.js': read('../../browser/wsmsgbroker.js'),
  '/actor.js': `{ const module = {}; ${read('../conversations/actor.js')}; window.actor = module.exports; }`,
};

/** Drives a client in this page (see ../conversations.test.js). */
const driver = (page) => ({
  name: 'browser',
  async make(...args) {
    await page.evaluate(([id, port, options]) => {
      const client = new window.WSMsgBroker(id, `ws://127.0.0.1:${port}/`, options);
      window.program = window.actor(client);
    }, args);
    return {
      call: (step) => page.evaluate((step) => window.program.call(step), step),
      nextReport: () => page.evaluate(() => window.program.nextReport()),
    };
  },
});

for (const conversation of conversations) {
  const { name, not = [] } = conversation;
  if (not.includes('browser')) continue;
  test.serial(`Chromium: ${name}`, async (t) => {
    await Stage.play(driver(await openPage(t, await chromium.context(t), FILES)), conversation);
    t.pass();
  });
}
