'use strict';

// A real Chromium, and pages in it. A test file starts one, and closes it when all is done.

const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');
const { serve } = require('./site');

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

/** The browser of a test file, started before its tests. */
function startChromium(test) {
  let browser;
  test.before('Chromium starts', async () => {
    browser = await chromium.launch({
      executablePath: executable(),
      args: ARGS,
      ignoreDefaultArgs: PAMPERING,
    });
  });
  test.after.always('Chromium ends', () => browser?.close());
  return {
    /** Where pages share what browsers share, until the test ends. Any certificate is good enough. */
    async context(t) {
      const context = await browser.newContext({ ignoreHTTPSErrors: true });
      t.teardown(() => context.close());
      return context;
    },
  };
}

/** Opens a page of a site with these files (see site.js), which has loaded all of them. */
async function openPage(t, context, files, { tls, query = '' } = {}) {
  const site = await serve(files, tls);
  t.teardown(site.close);
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error));
  page.on('console', (line) => line.type() === 'error' && t.log(`the page says: ${line.text()}`));
  await page.goto(`${site.url}/${query}`);
  t.deepEqual(errors, [], 'the page has thrown');
  return page;
}

module.exports = { openPage, startChromium };
