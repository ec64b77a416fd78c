'use strict';

// The asker and the responder of each kind of client, with the functions `ask`, `sample` and `end`.

const fs = require('node:fs');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { launch } = require('../../testkit/chromium');
const proc = require('../../testkit/proc');
const { startSite } = require('../../testkit/site');
const Child = require('../processes');
const { ask, sizes, start } = require('./ask');

/** In a process of Node.js. */
async function inProcess(kind, url, broken) {
  const child = new Child(kind, 'requests/client.js', [kind, url], broken);
  await child.message('ready');
  return {
    ask: async (what) => (await child.ask({ ask: what }, 'ends')).ends,
    sample: async () => {
      const { sizes: tables, heap } = await child.ask({ sample: true }, 'sizes');
      return { ...tables, heap, resident: child.resident() };
    },
    end: () => child.end('close', 10_000),
  };
}

/**
 * In a page of Chromium. Playwright would receive an event for every frame of the page's WebSockets, which
 * costs several times more than the page itself. Therefore it only starts the browser, and the page is
 * controlled by a connection of our own.
 */
async function inPage(_kind, url, broken) {
  const browser = await launch();
  const ends = [() => browser.close()];
  try {
    const { url: page } = await startSite({ teardown: (end) => ends.push(end) }, FILES);
    const session = await browser.newBrowserCDPSession();
    const { targetId } = await session.send('Target.createTarget', { url: page });
    const tools = await attach(session, targetId);
    const evaluate = async (expression) => {
      const how = { expression, awaitPromise: true, returnByValue: true };
      const { result, exceptionDetails } = await tools('Runtime.evaluate', how);
      if (exceptionDetails)
        broken(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    };
    // Until then the page may be the initial empty one.
    while (!(await evaluate("document.readyState === 'complete' && 'start' in window")))
      await sleep(20);
    await evaluate(
      `start(WSMsgBroker, ${JSON.stringify(url)}).then((made) => { window.pair = made; })`,
    );
    return {
      ask: (what) => evaluate(`ask(pair, ${JSON.stringify(what)})`),
      sample: async () => {
        const tables = await evaluate('sizes(pair)');
        // Several times, because a collection makes further objects collectable, also those of the page's own heap.
        let heap = Number.POSITIVE_INFINITY;
        for (let n = 0; n < COLLECTIONS; n += 1) {
          await sleep(50);
          await tools('HeapProfiler.collectGarbage');
          heap = Math.min(heap, (await tools('Runtime.getHeapUsage')).usedSize);
        }
        const { processInfo } = await session.send('SystemInfo.getProcessInfo');
        // Chromium keeps an idle renderer for the next page.
        const [busiest] = processInfo
          .filter(({ type }) => type === 'renderer')
          .sort((a, b) => b.cpuTime - a.cpuTime);
        return { ...tables, heap, resident: proc.memory(busiest.id).rss };
      },
      end: () => endAll(ends),
    };
  } catch (error) {
    await endAll(ends);
    throw error;
  }
}

/** Collections of a page's garbage before its heap is measured. */
const COLLECTIONS = 5;

const FILES = {
  '/': '<script src="/client.js"></script><script src="/ask.js"></script>',
  '/client.js': fs.readFileSync(path.join(__dirname, '../../browser/wsmsgbroker.js')),
  '/ask.js': [start, ask, sizes].join('\n'),
};

/** A function that calls a method of a page's tools. */
async function attach(session, targetId) {
  const { sessionId } = await session.send('Target.attachToTarget', { targetId, flatten: false });
  const calls = new Map();
  session.on('Target.receivedMessageFromTarget', ({ message }) => {
    const { id, result, error } = JSON.parse(message);
    calls.get(id)?.(error ? Promise.reject(new Error(error.message)) : result);
    calls.delete(id);
  });
  let last = 0;
  return (method, params = {}) =>
    new Promise((resolve, reject) => {
      last += 1;
      calls.set(last, resolve);
      const message = JSON.stringify({ id: last, method, params });
      session.send('Target.sendMessageToTarget', { sessionId, message }).catch(reject);
    });
}

async function endAll(ends) {
  for (const end of ends) await end();
}

/** By kind of client. */
module.exports = { native: inProcess, browser: inProcess, page: inPage };
