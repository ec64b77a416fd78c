'use strict';

// Data of Linux about a process: its files in `/proc`.

const fs = require('node:fs');

const read = (pid, name) => fs.readFileSync(`/proc/${pid}/${name}`, 'utf8');

/** Processor time in seconds, of its own and of its children that have ended; resolution 10 ms. */
function processorTime(pid) {
  const stat = read(pid, 'stat');
  // The second field is a name in parentheses that may hold spaces: count from behind it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [user, system, ofChildren, systemOfChildren] = fields.slice(11, 15).map(Number);
  return { own: (user + system) / 100, children: (ofChildren + systemOfChildren) / 100 };
}

/** Bytes of memory, resident and proportional. The kernel counts them exactly here, and by the hundred elsewhere. */
function memory(pid) {
  const rollup = read(pid, 'smaps_rollup');
  const bytes = (key) => Number(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(rollup)[1]) * 1024;
  return { rss: bytes('Rss'), pss: bytes('Pss') };
}

module.exports = { memory, processorTime, read };
