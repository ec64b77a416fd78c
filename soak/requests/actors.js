'use strict';

// Those who ask and answer, wherever they run, by what they all can: `ask`, `sample`, `end`.

const fs = require('node:fs');
const path = require('node:path');
const { launch, openPage } = require('../../__test__/support/chromium');
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

/** Resident bytes of the process with this pid. */
function residentOf(pid) {
  const rollup = fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  return Number(/^Rss:\s+(\d+)/m.exec(rollup)[1]) * 1024;
}

/** In a page of Chromium. */
async function inPage(_kind, url, broken) {
  const browser = await launch();
  const ends = [() => browser.close()];
  const t = { teardown: (end) => ends.unshift(end), fail: broken };
  try {
    const script = fs.readFileSync(path.join(__dirname, '../../browser/wsmsgbroker.js'), 'utf8');
    const functions = [start, ask, sizes].join('\n');
    const page = await openPage(t, await browser.newContext(), {
      '/': '<script src="/client.js"></script><script src="/ask.js"></script>',
      '/client.js': script,
      '/ask.js': functions,
    });
    await page.evaluate(
      `start(WSMsgBroker, ${JSON.stringify(url)}).then((made) => { window.pair = made; })`,
    );
    const tools = await page.context().newCDPSession(page);
    const system = await browser.newBrowserCDPSession();
    return {
      ask: (what) => page.evaluate(`ask(pair, ${JSON.stringify(what)})`),
      sample: async () => {
        const tables = await page.evaluate('sizes(pair)');
        await tools.send('HeapProfiler.collectGarbage');
        const { usedSize } = await tools.send('Runtime.getHeapUsage');
        const { processInfo } = await system.send('SystemInfo.getProcessInfo');
        // One is kept for the next page; it has nothing to do.
        const [busiest] = processInfo
          .filter(({ type }) => type === 'renderer')
          .sort((a, b) => b.cpuTime - a.cpuTime);
        return { ...tables, heap: usedSize, resident: residentOf(busiest.id) };
      },
      end: () => endAll(ends),
    };
  } catch (error) {
    await endAll(ends);
    throw error;
  }
}

async function endAll(ends) {
  for (const end of ends) await end();
}

/** By kind of client. */
module.exports = { native: inProcess, browser: inProcess, page: inPage };
