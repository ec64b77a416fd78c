'use strict';

// After a build: leaves the package of each platform that was built whole in npm/<platform>/, so
// that `npm pack` there gives what users install. Its package.json and README are in git.

const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');

for (const file of fs.readdirSync(root)) {
  const platform = /^wsmsgbroker\.(.+)\.node$/.exec(file)?.[1];
  if (!platform) continue;
  const folder = path.join(root, 'npm', platform);
  fs.copyFileSync(path.join(root, 'LICENSE'), path.join(folder, 'LICENSE'));
  const target = path.join(folder, file);
  // Renamed into place: a process that has the former addon mapped must not see its bytes change.
  fs.copyFileSync(path.join(root, file), `${target}.new`);
  fs.renameSync(`${target}.new`, target);
  console.log(`npm/${platform}/${file}`);
}
