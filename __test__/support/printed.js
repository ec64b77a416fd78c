'use strict';

const fs = require('node:fs');
const path = require('node:path');

/** The texts in the section of docs/examples.md that contains the command for an example. */
function printed(name) {
  const document = path.join(__dirname, '..', '..', 'docs', 'examples.md');
  const sections = fs.readFileSync(document, 'utf8').split(/^##+ /m);
  const section = sections.find((text) => text.includes(`\n    node examples/${name}\n`));
  if (!section) {
    throw new Error(`docs/examples.md does not show how to run ${name}`);
  }
  return [...section.matchAll(/^```text\n([\s\S]*?)^```$/gm)].map(([, text]) => text);
}

module.exports = { printed };
