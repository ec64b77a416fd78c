'use strict';

// The examples with pages, in a real browser. The output of their servers must match docs/examples.md.

const path = require('node:path');
const readline = require('node:readline');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const test = require('ava');
const { startChromium } = require('../../testkit/chromium');
const { startNats } = require('../../testkit/nats');
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

/** Resolves when the messages in the room are these. */
const showsMessages = (page, texts) =>
  page.waitForFunction((texts) => {
    const lines = [...document.querySelectorAll('#said .message')];
    return lines.map((line) => line.textContent).join('\n') === texts.join('\n');
  }, texts);

/** Resolves when the page has shown that a person has joined or left. */
const showsNote = (page, text) => page.locator('#said .note').filter({ hasText: text }).waitFor();

async function enter(page, name, room = 'tea') {
  await page.fill('[name=who]', name);
  await page.fill('[name=room]', room);
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
  const both = (shown, ...args) => Promise.all([ann, bob].map((page) => shown(page, ...args)));

  await enter(ann, 'ann');
  await shows(ann, 'people', 'ann');
  await enter(bob, 'bob');
  await both(shows, 'people', 'ann, bob');
  await say(ann, 'hello, is <b>anybody</b> here?');
  await both(showsMessages, ['ann: hello, is <b>anybody</b> here?']);
  await say(bob, 'yes');
  await both(showsMessages, ['ann: hello, is <b>anybody</b> here?', 'bob: yes']);

  await stop();
  await both((page) =>
    page
      .locator('#state')
      .filter({ hasText: /^not connected/ })
      .waitFor(),
  );
  await startExample(t, 'chat', { PORT: new URL(url).port, BROKER_PORT: port });
  await both(shows, 'state', 'connected');
  await both(shows, 'people', 'ann, bob');
  await say(bob, 'again');
  await both(showsMessages, ['ann: hello, is <b>anybody</b> here?', 'bob: yes', 'bob: again']);
});

test('pages see who is in their room, who is typing, and who leaves', async (t) => {
  const { url } = await startExample(t, 'chat');
  const context = await chromium.context(t);
  const openPage = () => open(t, context, url);
  const [ann, bob, carol] = [await openPage(), await openPage(), await openPage()];
  await enter(ann, 'ann');
  await shows(ann, 'people', 'ann');
  await enter(bob, 'bob');
  await showsNote(ann, 'bob has joined');
  await enter(carol, 'carol', 'coffee');
  await shows(carol, 'people', 'carol');
  await bob.locator('[name=text]').pressSequentially('Is it');
  await shows(ann, 'people', 'ann, bob (typing)');
  await say(bob, 'Is it strong?');
  await shows(ann, 'people', 'ann, bob');
  await showsMessages(ann, ['bob: Is it strong?']);
  // Typing is no joining.
  t.is(await ann.locator('#said .note').filter({ hasText: 'bob has joined' }).count(), 1);
  t.is(await carol.locator('#said .message').count(), 0);
  t.is(await carol.locator('#said .note').count(), 1);
  // Another room, under the same name.
  await enter(bob, 'bob', 'coffee');
  await showsNote(ann, 'bob has left');
  await shows(ann, 'people', 'ann');
  await shows(carol, 'people', 'bob, carol');
  await bob.close();
  await showsNote(carol, 'bob has left');
  await shows(carol, 'people', 'carol');
});

test('pages at two brokers are in one room, also after one of the brokers was killed', async (t) => {
  const nats = await startNats(t);
  const env = { NATS_URL: nats.url, SECOND_PORT: '0' };
  const { url, port, nextLine } = await startExample(t, 'chat', env);
  const line = await nextLine();
  const [, second, pid] = line.match(/ port (\d+) \(process (\d+)\)$/);
  const [, shown] = printed('chat/server.js')[1].trim().split('\n');
  t.is(line.replace(second, '9043').replace(pid, '4711'), shown);
  const context = await chromium.context(t);
  /** Opens a page at the broker with this port, and enters the room. */
  const join = async (name, broker) => {
    const page = await open(t, context, url);
    const sockets = [];
    page.on('websocket', (socket) => sockets.push(new URL(socket.url()).port));
    await enter(page, name);
    await shows(page, 'state', 'connected');
    t.is(sockets.at(-1), broker);
    return { page, sockets };
  };
  // The pages begin with the brokers in turn.
  const { page: ann } = await join('ann', port);
  const { page: bob, sockets } = await join('bob', second);
  const { page: carol } = await join('carol', port);
  const both = (shown, ...args) => Promise.all([ann, bob].map((page) => shown(page, ...args)));
  await both(shows, 'people', 'ann, bob, carol');
  await showsNote(bob, 'carol has joined');
  // A message reaches another broker within a second after the subscription there.
  await sleep(1000);
  await say(ann, 'hello');
  await both(showsMessages, ['ann: hello']);
  await say(bob, 'hello, ann');
  await both(showsMessages, ['ann: hello', 'bob: hello, ann']);
  await bob.locator('[name=text]').pressSequentially('And');
  await shows(ann, 'people', 'ann, bob (typing), carol');
  await carol.close();
  await both(showsNote, 'carol has left');
  await both(shows, 'people', 'ann, bob (typing)');

  process.kill(Number(pid), 'SIGKILL');
  await bob
    .locator('#state')
    .filter({ hasText: /^not connected/ })
    .waitFor();
  await shows(bob, 'state', 'connected');
  t.is(sockets.at(-1), port);
  await shows(bob, 'people', 'ann, bob (typing)');
  await say(bob, 'And again');
  await both(showsMessages, ['ann: hello', 'bob: hello, ann', 'bob: And again']);
  await both(shows, 'people', 'ann, bob');
  // Bob was not seen to leave.
  t.is(await ann.locator('#said .note').filter({ hasText: 'bob has left' }).count(), 0);
});

test('a name in the chat belongs to one page until that page leaves', async (t) => {
  const { url } = await startExample(t, 'chat');
  const context = await chromium.context(t);
  const [ann, other] = [await open(t, context, url), await open(t, context, url)];
  await enter(ann, 'ann');
  await shows(ann, 'people', 'ann');
  await enter(other, 'ann');
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
