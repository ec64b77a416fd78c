'use strict';

const fs = require('node:fs');
const path = require('node:path');

/** What docs/examples.md shows of an example: the texts of its section, which has the command that runs it. */
function printed(name) {
  const document = path.join(__dirname, '..', '..', 'docs', 'examples.md');
  const sections = fs.readFileSync(document, 'utf8').split(/^## /m);
  const section = sections.find((text) => text.includes(`\n    node examples/${name}\n`));
  if (!section) {
    throw new Error(`docs/examples.md does not show how to run ${name}`);
  }
  return [...section.matchAll(/^```text\n([\s\S]*?)^```$/gm)].map(([, text]) => text);
}

module.exports = { printed };
