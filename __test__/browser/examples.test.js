'use strict';

// The examples with pages, in a real browser. The output of their servers must match docs/examples.md.

const path = require('node:path');
const readline = require('node:readline');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const { startChromium } = require('../../testkit/chromium');
const { printed } = require('../support/printed');

const chromium = startChromium(test);

/** Runs the server of an example until the test ends, on free ports unless `env` has some. */
async function startExample(t, name, env) {
  // Shorter than the timeout of AVA, which would leave the server running.
  t.timeout(60_000);
  const script = path.join(__dirname, '..', '..', 'examples', name, 'server.js');
  const child = spawn(process.execPath, [script], {
    env: { ...process.env, PORT: '0', BROKER_PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const end = once(child, 'exit');
  const stop = () => {
    child.kill('SIGKILL');
    return end;
  };
  t.teardown(stop);
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const nextLine = async () => (await lines.next()).value;
  const first = await nextLine();
  const [, url, port] = first.match(/^Open (\S+) .* port (\d+)\)$/);
  const [shown] = printed(`${name}/server.js`);
  t.is(first.replace(url, 'http://127.0.0.1:8080').replace(port, '9042'), shown.trim());
  return { url, port, nextLine, stop };
}

/** Opens a page in which any uncaught exception fails the test. */
async function open(t, context, url) {
  const page = await context.newPage();
  page.on('pageerror', (error) => t.fail(`the page has thrown ${error.stack}`));
  await page.goto(url);
  return page;
}

/** Resolves when an element has this text. */
const shows = (page, id, text) =>
  page.waitForFunction(
    ([id, text]) => document.getElementById(id).textContent === text,
    [id, text],
  );

async function enter(page, name) {
  await page.fill('[name=who]', name);
  await page.click('#enter button');
}

async function say(page, text) {
  await page.fill('[name=text]', text);
  await page.click('#say button');
}

test('two pages chat and reconnect after the broker was killed and restarted', async (t) => {
  const { url, port, stop } = await startExample(t, 'chat');
  const context = await chromium.context(t);
  const [ann, bob] = [await open(t, context, url), await open(t, context, url)];
  const both = (id, text) => Promise.all([ann, bob].map((page) => shows(page, id, text)));

  await enter(ann, 'ann');
  await shows(ann, 'people', 'ann');
  await enter(bob, 'bob');
  await both('people', 'ann, bob');
  await say(ann, 'hello, is <b>anybody</b> here?');
  await both('said', 'ann: hello, is <b>anybody</b> here?');
  await say(bob, 'yes');
  await both('said', 'ann: hello, is <b>anybody</b> here?bob: yes');

  await stop();
  await both('people', '');
  await startExample(t, 'chat', { PORT: new URL(url).port, BROKER_PORT: port });
  const there = (page) =>
    page.waitForFunction(() => document.getElementById('people').textContent.length === 8);
  await Promise.all([there(ann), there(bob)]);
  await both('state', 'connected');
  await say(bob, 'again');
  await both('said', 'ann: hello, is <b>anybody</b> here?bob: yesbob: again');
});

test('a name in the chat belongs to one page until that page leaves', async (t) => {
  const { url } = await startExample(t, 'chat');
  const context = await chromium.context(t);
  const [ann, other] = [await open(t, context, url), await open(t, context, url)];
  await enter(ann, 'ann');
  await shows(ann, 'people', 'ann');
  await enter(other, 'ann');
  await shows(other, 'state', 'this name is taken');
  await enter(other, 'room');
  await shows(other, 'state', 'this name is taken');
  await enter(other, 'bob');
  await shows(ann, 'people', 'ann, bob');
  await ann.close();
  await shows(other, 'people', 'bob');
  await enter(other, 'ann');
  await shows(other, 'people', 'ann');
});

/** Duration of a job step that never ends within a test, ms. */
const NEVER = '1000000000';
/** The output for a job that is cancelled in its first step. */
const givenUp = () => printed('progress/server.js')[1].replace('42 %', '0 %').trim();

test('the progress bar reaches its end', async (t) => {
  const { url, nextLine } = await startExample(t, 'progress', { STEP: '1' });
  const page = await open(t, await chromium.context(t), url);
  await page.evaluate(() => {
    const bar = document.getElementById('bar');
    window.seen = [];
    new MutationObserver(() => window.seen.push(bar.value)).observe(bar, { attributes: true });
  });
  await page.click('#start');
  await shows(page, 'state', 'done');
  t.is(await page.evaluate('bar.value'), 100);
  const seen = await page.evaluate('seen');
  t.deepEqual(
    seen,
    [...seen].sort((a, b) => a - b),
  );
  t.true(seen.length > 1);
  t.is(await nextLine(), 'a job is done');
});

test('closing the page aborts its job', async (t) => {
  const { url, nextLine } = await startExample(t, 'progress', { STEP: NEVER });
  const page = await open(t, await chromium.context(t), url);
  await page.click('#start');
  await shows(page, 'state', '0 %');
  await page.close();
  t.is(await nextLine(), givenUp());
});

test('cancelling a job aborts it, and another one can start', async (t) => {
  const { url, nextLine } = await startExample(t, 'progress', { STEP: NEVER });
  const page = await open(t, await chromium.context(t), url);
  await page.click('#start');
  await shows(page, 'state', '0 %');
  await page.click('#cancel');
  await shows(page, 'state', 'ABORT_ERR');
  t.is(await nextLine(), givenUp());
  await page.click('#start');
  await shows(page, 'state', '0 %');
});
