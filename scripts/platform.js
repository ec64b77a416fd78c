'use strict';

// After a build: completes the package of each built platform in npm/<platform>/, so that `npm pack` there
// produces the published package. Its package.json and README are in git.

const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');

for (const file of fs.readdirSync(root)) {
  const platform = /^wsmsgbroker\.(.+)\.node$/.exec(file)?.[1];
  if (!platform) continue;
  const folder = path.join(root, 'npm', platform);
  fs.copyFileSync(path.join(root, 'LICENSE'), path.join(folder, 'LICENSE'));
  const target = path.join(folder, file);
  // Renamed into place, so that the bytes of an addon that a process has mapped do not change.
  fs.copyFileSync(path.join(root, file), `${target}.new`);
  fs.renameSync(`${target}.new`, target);
  console.log(`npm/${platform}/${file}`);
}
