'use strict';

// The dashboard in a page: figures, slow receivers, the token, a broker that ends, a cluster that falls apart, many
// connections, and accessibility. WSMB_CONNECTIONS is their number, and WSMB_SCREENSHOTS a folder for pictures.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const test = require('ava');
const { startChromium } = require('../../testkit/chromium');
const { startNats } = require('../../testkit/nats');
const { lastingPort } = require('../../testkit/ports');
const { TOKEN } = require('../support/admin');
const { startSlow } = require('../support/slow');
const { frame } = require('../support/upgrade');
const { startClient, startServer } = require('../support/start');

const chromium = startChromium(test);
const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const MARKUP = '<img src=x onerror="window.hit = 1"><script>window.hit = 1</script>';
/** Messages of the console about responses that a test has caused. */
const EXPECTED = /^Failed to load resource/;
const PHONE = { width: 390, height: 844 };
const CONNECTIONS = Number(process.env.WSMB_CONNECTIONS ?? 1000);
const SLOW_CONNECTIONS = 20;
/** Maximum bytes of the responses of a second, whatever the number of connections. */
const MAX_RESPONSES = 100_000;

/** Starts a server with an admin endpoint; returns it with the URL of its dashboard. */
async function start(t, { admin, ...options } = {}) {
  const server = await startServer(t, { admin: { port: 0, ...admin }, ...options });
  return { server, url: `http://127.0.0.1:${server.adminAddress().port}/` };
}

/** A page, whose errors fail the test. `fails`: responses with an error are expected. */
async function createPage(t, { fails = false } = {}) {
  const page = await (await chromium.context(t)).newPage();
  page.on('pageerror', (error) => t.fail(`the page has thrown ${error.stack}`));
  page.on('console', (message) => {
    const isExpected = fails && EXPECTED.test(message.text());
    if (message.type() === 'error' && !isExpected) t.fail(`console: ${message.text()}`);
  });
  return page;
}

/** Resolves when the text of an element matches. */
function textWhen(page, selector, pattern) {
  return page.locator(selector).filter({ hasText: pattern }).waitFor();
}

/** Opens a dashboard; resolves when it shows figures. */
async function open(t, url, options) {
  const page = await createPage(t, options);
  await page.goto(url);
  await page.locator('.u-wrap').first().waitFor();
  return page;
}

/** Enters a token. */
async function enter(page, token) {
  await page.fill('#token', token);
  await page.click('#login button');
}

/** Fails if axe finds serious violations, in light and dark. */
async function checkAccessibility(t, page, place) {
  await page.evaluate(AXE);
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    const violations = await page.evaluate(async () => {
      const result = await globalThis.axe.run();
      return result.violations
        .filter(({ impact }) => impact === 'serious' || impact === 'critical')
        .map(({ id, nodes }) => [
          id,
          nodes.map(({ html, failureSummary }) => [html, failureSummary]),
        ]);
    });
    t.deepEqual(violations, [], `${place}, ${colorScheme}`);
  }
}

/** Takes a picture in light and in dark, if a folder for them is given. */
async function takePictures(page, name) {
  const folder = process.env.WSMB_SCREENSHOTS;
  if (!folder) return;
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    await sleep(1500);
    await page.screenshot({
      path: path.join(folder, `${name}-${colorScheme}.png`),
      fullPage: true,
    });
  }
}

/** Searches for an id. */
async function search(page, id) {
  await page.fill('#prefix', id);
  await page.click('#search button');
}

/** Keeps a client in the list of slow receivers; resolves with its socket. */
async function holdSender(t, server, id) {
  const socket = await startSlow(t, server, id);
  const sender = await startClient(t, server, `sender of ${id}`);
  for (let n = 0; n < 100; n += 1) sender.send('x'.repeat(100_000), id);
  return socket;
}

const SLOW = { maxBackpressure: 1024, slowConsumerTimeout: 60_000 };

test('a broker at rest: state, figures and limits', async (t) => {
  const { server, url } = await start(t, { maxConnections: 1234 });
  await startClient(t, server, 'a');
  const page = await open(t, url);
  await textWhen(page, '#state', /^ready$/);
  await textWhen(page, '.tile:nth-child(1)', /1.*of 1,234, 1 ids/s);
  await textWhen(page, '#version', require('../../package.json').version);
  await textWhen(page, '#worst', 'No connection has bytes queued.');
  t.is(await page.title(), 'wsmsgbroker: ready');
  t.is(await page.locator('.chart canvas').count(), 4);
  // Without a token there is no button that could not work.
  t.is(await page.getByRole('button', { name: /^Disconnect/ }).count(), 0);
  await page.getByRole('button', { name: '6 h' }).click();
  t.is(await page.locator('[data-range=minutes]').getAttribute('aria-pressed'), 'true');
});

test('figures under load', async (t) => {
  const { server, url } = await start(t);
  const clients = await Promise.all(
    Array.from({ length: 20 }, (_, n) => startClient(t, server, `client-${n}`, { protocol: 2 })),
  );
  clients[0].on('message', (message, response) => response?.send(message));
  let isOver = false;
  const load = (async () => {
    while (!isOver) {
      for (let n = 0; n < 50; n += 1) clients[1].send('text', 'client-2');
      await clients[3].request('x', 'client-0');
    }
  })();
  const page = await open(t, url);
  await textWhen(page, '.tile:nth-child(1)', /20.*20 ids/s);
  await textWhen(page, '.tile:nth-child(2)', /[1-9][\d,.]*K? in [1-9][\d,.]*K? out/);
  await textWhen(page, '.tile:nth-child(3)', /[1-9][\d.]* [KM]?B in/);
  await textWhen(page, '.chart:nth-child(2)', /routing p50 \d.*request p99 \d/s);
  const line = await page.locator('.tile:nth-child(2) polyline').first().getAttribute('points');
  t.true(line.split(' ').length > 1);
  isOver = true;
  await load;
});

test('a slow receiver is shown, and disconnected after a confirmation', async (t) => {
  const { server, url } = await start(t, { admin: { token: TOKEN }, ...SLOW });
  const slow = await holdSender(t, server, 'slow');
  const page = await createPage(t, { fails: true });
  await page.goto(url);
  await enter(page, TOKEN);
  await page.locator('#worst').getByText('slow', { exact: true }).waitFor();
  await textWhen(page, '#worst tbody tr td:nth-child(5)', /^1 for [\d.,]+ m?s$/);
  await textWhen(page, '#worst tbody tr td:nth-child(4)', /^[\d.,]+ m?s$/);
  // It still sends.
  const message = frame({ action: 'send', dest: 'sender of slow', message: 'x' });
  const sending = setInterval(() => slow.write(message), 100);
  t.teardown(() => clearInterval(sending));
  await textWhen(page, '#worst tbody tr td:nth-child(6)', /^[1-9]/);
  await textWhen(page, '#worst tbody tr td:nth-child(7)', /^0$/);
  await search(page, 'sender of slow');
  await textWhen(page, '#found tbody tr td:nth-child(4)', /^slow \([\d.,]+ m?s\)$/);
  const button = page.getByRole('button', { name: 'Disconnect slow' });
  await button.focus();
  // The focus stays while the table changes: the figures of each second are new.
  const next = () => page.waitForResponse(/\/api\/connections/);
  for (let n = 0; n < 3; n += 1) await next();
  t.true(await button.evaluate((focused) => focused === document.activeElement));
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  t.is(await page.locator('#confirm-id').textContent(), 'slow');
  await page.keyboard.press('Escape');
  t.true(server.has('slow'));
  await button.click();
  const ended = once(server, 'disconnected');
  await page.locator('#disconnect').click();
  await textWhen(page, '#done', 'Disconnected slow');
  t.false(server.has('slow'));
  t.like((await ended)[0], { id: 'slow', reason: 'requested', code: 4000 });
  await textWhen(page, '#worst', 'No connection has bytes queued.');
  await textWhen(page, '#closed', /slow.*requested \(4000\)/);
});

test('topics with the most subscribers, and a search for others', async (t) => {
  const { server, url } = await start(t);
  const client = await startClient(t, server, 'a', { protocol: 2 });
  const other = await startClient(t, server, 'b', { protocol: 2 });
  const topic = '<img/src=x/onerror="window"';
  for (const each of [client, other]) {
    await each.subscribe(topic);
    const jobs = await each.subscribe('jobs', { group: 'workers', window: 1 });
    jobs.handle(() => new Promise(() => {}));
  }
  await client.subscribe('room.*');
  await client.subscribe('room.tea', { info: 1 });
  for (let n = 0; n < 5; n += 1) client.publish(n, 'jobs');
  const page = await open(t, url);
  await textWhen(page, '#subscriptions', /^1 members, 1 patterns, 6 subscriptions, 3 topics$/);
  await textWhen(page, '#topics tbody tr:nth-child(1)', `${topic}2–`);
  await textWhen(page, '#topics tbody tr:nth-child(2)', 'jobs2workers: 2, 3 waiting');
  t.is(await page.locator('#topics tbody tr').count(), 4);
  // The list is updated.
  for (let n = 0; n < 60; n += 1) await other.subscribe(`many.${n}`);
  await textWhen(page, '#topic-count', /^The first 50$/);
  await page.fill('#topic', 'room.');
  await page.click('#search-topics button');
  await page.locator('#topics tbody tr:nth-child(3)').waitFor({ state: 'detached' });
  await textWhen(page, '#topics tbody tr:nth-child(1)', 'room.*1–');
  await textWhen(page, '#topics tbody tr:nth-child(2)', 'room.tea1–');
  await checkAccessibility(t, page, 'topics');
  // It stays until the next search.
  for (let n = 0; n < 2; n += 1) await page.waitForResponse(/\/api\/stats/);
  t.is(await page.locator('#topics tbody tr').count(), 2);
  await page.fill('#topic', 'none');
  await page.click('#search-topics button');
  await textWhen(page, '#topics tbody', 'No topics.');
  await page.fill('#topic', '');
  await page.click('#search-topics button');
  await page.locator('#topics tbody tr:nth-child(50)').waitFor();
  t.is(await page.evaluate(() => window.hit), undefined);
});

test('ids with markup execute nothing', async (t) => {
  const { server, url } = await start(t, { admin: { token: TOKEN }, ...SLOW });
  await holdSender(t, server, MARKUP);
  const gone = await startClient(t, server, `${MARKUP} gone`);
  gone.close();
  await once(gone, 'close');
  const page = await createPage(t, { fails: true });
  await page.goto(url);
  await enter(page, TOKEN);
  await page.locator('#worst').getByText(MARKUP, { exact: true }).waitFor();
  await page.locator('#closed').getByText(`${MARKUP} gone`, { exact: true }).waitFor();
  await page.fill('#prefix', '<img');
  await page.click('#search button');
  await page.locator('#found').getByText(MARKUP, { exact: true }).waitFor();
  await textWhen(page, '#count', /^1 id$/);
  await page.locator('#worst button').click();
  t.is(await page.locator('#confirm-id').textContent(), MARKUP);
  await page.click('#disconnect');
  await textWhen(page, '#done', `Disconnected ${MARKUP}`);
  t.is(await page.evaluate(() => window.hit), undefined);
  t.is(await page.locator('img').count(), 0);
  t.is(await page.locator('body script').count(), 0);
});

test('the page asks for the token, and keeps it for the tab', async (t) => {
  const { url } = await start(t, { admin: { token: TOKEN } });
  const page = await createPage(t, { fails: true });
  await page.goto(url);
  await textWhen(page, '#state', 'token required');
  t.true(await page.locator('#token').evaluate((input) => input === document.activeElement));
  await checkAccessibility(t, page, 'token');
  await enter(page, 'wrong');
  await textWhen(page, '#refusal', 'did not accept');
  await enter(page, TOKEN);
  await textWhen(page, '#state', /^ready$/);
  await page.reload();
  await textWhen(page, '#state', /^ready$/);
  t.is(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
  t.false(page.url().includes(TOKEN));
});

test('a broker that ends and starts again', async (t) => {
  const port = await lastingPort(t);
  const first = await start(t, { admin: { port } });
  const page = await open(t, first.url, { fails: true });
  await first.server.close();
  await textWhen(page, '#lost', 'The broker does not answer.');
  await textWhen(page, '#state', 'no answer');
  await checkAccessibility(t, page, 'without a broker');
  const second = await start(t, { admin: { port } });
  await startClient(t, second.server, 'a');
  await textWhen(page, '#state', /^ready$/);
  t.true(await page.locator('#lost').isHidden());
  await textWhen(page, '.tile:nth-child(1)', /1.*1 ids/s);
});

test('a broker that drains', async (t) => {
  const { server, url } = await start(t);
  // A client of version 2 that stays.
  const client = await startClient(t, server, 'a', { protocol: 2 });
  client.on('goaway', () => {});
  const page = await open(t, url, { fails: true });
  const closed = server.close({ drain: 60_000 });
  await textWhen(page, '#state', /^draining, \d+ s left$/);
  t.true(await page.locator('#lost').isHidden());
  client.close();
  await closed;
  await textWhen(page, '#state', 'no answer');
});

test('a hidden page asks nothing', async (t) => {
  const { url } = await start(t);
  const page = await createPage(t);
  await page.clock.install();
  let asked = 0;
  page.on('request', (request) => {
    asked += Number(request.url().includes('/api/stats'));
  });
  const answer = () => page.waitForResponse(/\/api\/stats/);
  const hide = (hidden) =>
    page.evaluate((isHidden) => {
      Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
  await Promise.all([answer(), page.goto(url)]);
  await Promise.all([answer(), page.clock.runFor(2000)]);
  await hide(true);
  await page.clock.runFor(1000);
  const before = asked;
  await page.clock.runFor(60_000);
  t.is(asked, before);
  await Promise.all([answer(), hide(false)]);
  t.is(asked, before + 1);
});

test('no serious violation of accessibility, in any size', async (t) => {
  const { server, url } = await start(t, { admin: { token: TOKEN }, ...SLOW });
  await holdSender(t, server, 'slow');
  const page = await createPage(t, { fails: true });
  await page.goto(url);
  await enter(page, TOKEN);
  await page.locator('#worst button').waitFor();
  await page.fill('#prefix', 's');
  await page.click('#search button');
  await page.locator('#found').getByText('slow', { exact: true }).waitFor();
  await checkAccessibility(t, page, 'large');
  await page.setViewportSize(PHONE);
  await checkAccessibility(t, page, 'phone');
  const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  t.false(isWide, 'the page of a phone scrolls sideways');
  await page.locator('#worst button').click();
  await checkAccessibility(t, page, 'dialog');
});

test('?wall is large, and has no tables', async (t) => {
  const { server, url } = await start(t);
  await startClient(t, server, 'a');
  const page = await open(t, `${url}?wall`);
  await page.setViewportSize({ width: 1920, height: 1080 });
  t.is(await page.getByRole('table').count(), 0);
  t.is(await page.locator('.chart:visible').count(), 4);
  t.true(await page.evaluate(() => document.documentElement.scrollHeight <= innerHeight));
  await checkAccessibility(t, page, 'wall');
});

test('a cluster: where an id is, a broker that is lost, and a lost connection to NATS', async (t) => {
  const nats = await startNats(t);
  const { server, url } = await start(t, { nats: { servers: nats.url, name: 'one' } });
  server.on('cluster', () => {});
  const port = await lastingPort(t);
  const child = spawn(
    process.execPath,
    [
      path.join(__dirname, '../../bin/wsbrokerserver.js'),
      ...[String(port), '--host', '127.0.0.1', '--nats', nats.url, '--nats-name', 'two'],
    ],
    { stdio: 'ignore' },
  );
  t.teardown(() => child.kill('SIGKILL'));
  const page = await open(t, url, { fails: true });
  await textWhen(page, '#cluster', /Brokers2: one, two/);
  await startClient(t, server, MARKUP);
  await startClient(t, { address: () => ({ port }) }, `${MARKUP} there`);
  await search(page, `${MARKUP} there`);
  await textWhen(page, '#place', /^At broker two$/);
  await textWhen(page, '#count', /^0 ids$/);
  await search(page, MARKUP);
  await textWhen(page, '#place', /^At this broker, one$/);
  await textWhen(page, '#count', /^1 id$/);
  await search(page, 'nobody');
  await textWhen(page, '#place', /^At no broker$/);
  await search(page, '');
  await page.locator('#place').filter({ hasText: /^$/ }).waitFor({ state: 'hidden' });
  // The page has seen the other broker for a while.
  for (let n = 0; n < 4; n += 1) await page.waitForResponse(/\/api\/stats/);
  child.kill('SIGKILL');
  await textWhen(page, '#cluster', /Brokers1: one.*No longer theretwo \(last seen .+\)/);
  await checkAccessibility(t, page, 'without the other broker');
  await nats.stop();
  await textWhen(page, '#state', /^ready, cluster unreachable$/);
  await textWhen(page, '#cluster', /NATSunreachable/);
  await search(page, `${MARKUP} there`);
  await textWhen(page, '#place', /^NATS is unreachable: only this broker was searched$/);
  await checkAccessibility(t, page, 'without NATS');
  await takePictures(page, 'cluster');
  t.is(await page.evaluate(() => window.hit), undefined);
  await nats.start();
  await textWhen(page, '#state', /^ready$/);
  await textWhen(page, '#cluster', /NATSconnected/);
});

/** Starts a load of a broker; resolves when all its connections are open. */
async function startCrowd(t, server, count, slow) {
  const { port } = server.address();
  const program = path.join(__dirname, '../support/crowd.js');
  const crowd = spawn(process.execPath, [program, port, count, slow].map(String), {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.teardown(() => crowd.kill('SIGKILL'));
  await once(crowd.stdout, 'data');
}

/** The processor time of a page and of its browser for a while, as parts of a core. */
async function measure(page, milliseconds) {
  const context = page.context();
  const session = await context.newCDPSession(page);
  const whole = await context.browser().newBrowserCDPSession();
  await session.send('Performance.enable');
  const read = async () => {
    const { metrics } = await session.send('Performance.getMetrics');
    const { processInfo } = await whole.send('SystemInfo.getProcessInfo');
    const { TaskDuration, ScriptDuration } = Object.fromEntries(
      metrics.map(({ name, value }) => [name, value]),
    );
    const times = { tasks: TaskDuration, scripts: ScriptDuration };
    for (const { type, cpuTime } of processInfo) times[type] = (times[type] ?? 0) + cpuTime;
    return times;
  };
  const [before, begun] = [await read(), performance.now()];
  await sleep(milliseconds);
  const [after, seconds] = [await read(), (performance.now() - begun) / 1000];
  const parts = Object.entries(after).map(([name, value]) => [
    name,
    `${(((value - (before[name] ?? 0)) / seconds) * 100).toFixed(1)} %`,
  ]);
  return Object.fromEntries(parts);
}

test.serial(`${CONNECTIONS} connections, some of which come and go`, async (t) => {
  t.timeout(300_000);
  const { server, url } = await start(t, {
    maxConnections: 20_000,
    ...SLOW,
    slowConsumerTimeout: 300_000,
  });
  await startCrowd(t, server, CONNECTIONS, SLOW_CONNECTIONS);
  const page = await createPage(t);
  const sizes = [];
  page.on('response', (response) => {
    const { 'content-length': length } = response.headers();
    if (response.url().includes('/api/')) sizes.push(Number(length));
  });
  await page.goto(url);
  await textWhen(page, '.tile:nth-child(1)', /of 20,000/);
  await textWhen(page, '#worst tbody tr:nth-child(20) td:nth-child(5)', /^1 for /);
  await page.locator('#closed tbody tr:nth-child(200)').waitFor({ timeout: 120_000 });
  t.is(await page.locator('#worst tbody tr').count(), 20);
  t.is(await page.locator('#closed tbody tr').count(), 200);
  await search(page, 'client-1');
  await textWhen(page, '#count', /^The first 50 ids; there are more$/);
  // The first response has the whole history.
  await sleep(1000);
  sizes.length = 0;
  const parts = await measure(page, CONNECTIONS > 1000 ? 15_000 : 3000);
  t.log(parts, `${Math.max(...sizes)} bytes in a response`);
  const perSecond = Math.max(...sizes.slice(1).map((size, n) => size + sizes[n]));
  t.true(perSecond < MAX_RESPONSES, `${perSecond} bytes`);
  await takePictures(page, 'crowd');
  await checkAccessibility(t, page, 'many connections');
});
