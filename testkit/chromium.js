'use strict';

// A real Chromium, and pages in it. A test file starts one, and closes it when all is done.

const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');
const { startSite } = require('./site');

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking'];

/** By these a page behind another one would go on as if it were in front. */
const PAMPERING = [
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
];

/** The path of the program. */
function executable() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const folders = process.env.PATH.split(path.delimiter);
  const found = NAMES.flatMap((name) => folders.map((folder) => path.join(folder, name)));
  const program = found.find((file) => fs.existsSync(file));
  if (!program) {
    throw new Error(
      `none of ${NAMES.join(', ')} is in the PATH: install one (\`apt-get install chromium\`), or set CHROMIUM to the path of one`,
    );
  }
  return program;
}

function launch() {
  return chromium.launch({
    executablePath: executable(),
    args: ARGS,
    ignoreDefaultArgs: PAMPERING,
  });
}

/** The browser of a test file, started before its tests. */
function startChromium(test) {
  let browser;
  test.before('Chromium starts', async () => {
    browser = await launch();
  });
  test.after.always('Chromium ends', () => browser?.close());
  return {
    /** For pages that share what those of a user do, until the test ends. Takes any certificate. */
    async context(t) {
      const context = await browser.newContext({ ignoreHTTPSErrors: true });
      t.teardown(() => context.close());
      return context;
    },
    /**
     * Opens tabs of one window, each in front of those before, until the test ends. Nothing more can be
     * done to them: Playwright has every page that it drives believe that it is in front.
     */
    async tabs(t) {
      const session = await browser.newBrowserCDPSession();
      const { browserContextId } = await session.send('Target.createBrowserContext');
      t.teardown(() => session.send('Target.disposeBrowserContext', { browserContextId }));
      return (url) => session.send('Target.createTarget', { url, browserContextId });
    },
  };
}

/** Opens a page of a site with these files (see site.js); resolves when it has loaded them. */
async function openPage(t, context, files, { tls, query = '' } = {}) {
  const site = await startSite(t, files, tls);
  const page = await context.newPage();
  page.on('pageerror', (error) => t.fail(`the page has thrown ${error.stack}`));
  await page.goto(`${site.url}/${query}`);
  return page;
}

module.exports = { launch, openPage, startChromium };
