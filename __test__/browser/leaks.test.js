'use strict';

// Tests of leaks.test.js in a page of a real browser.

const test = require('ava');
const { judge, measure } = require('../../soak/requests/measure');

const COUNT = 10_000;

// The test reads /proc.
const linux = process.platform === 'linux' ? test : test.skip;

linux(`a page: ${COUNT} requests leave nothing behind`, async (t) => {
  t.timeout(90_000);
  t.deepEqual(judge(await measure('page', { count: COUNT, parts: 2 })), []);
});
