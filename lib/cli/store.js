'use strict';

// The subcommand `store`: checks, compacts and reads the store of a broker that does not run.

const { NativeStoreReader, checkStore, compactStore } = require('../native');
const { escapeUnprintable } = require('../printable');
const { FAILURE, SUCCESS, UsageError } = require('./exit');

const describe = `Usage: wsmsgbroker store <check|compact|dump|export> <folder>

Works on the store of a broker (store.path) that does not run.

  check     verify the file and each message; prints the numbers of each log
  compact   make the file as small as its messages
  dump      print offset, time, topic and size of each message: one JSON object a line
  export    print each message with its text, and the epoch of its log: one JSON object a line

Exit codes: 0 success; 1 the store is damaged, is in use, or cannot be read.
`;

const number = (value) => value.toLocaleString('en-US');

function check(folder) {
  const { bytes, hasIntactPages, logs } = checkStore(folder);
  let damaged = 0;
  for (const log of logs) {
    damaged += log.damaged;
    process.stdout.write(
      `${escapeUnprintable(log.log)}: ${number(log.messages)} messages of ${number(log.topics)} topics, ` +
        `${number(log.bytes)} bytes, ${number(log.keys)} keys, ${number(log.damaged)} damaged\n`,
    );
  }
  const isIntact = hasIntactPages && damaged === 0;
  const pages = hasIntactPages ? '' : ', with damaged pages';
  process.stdout.write(
    `${isIntact ? 'intact' : 'damaged'}: file of ${number(bytes)} bytes${pages}\n`,
  );
  return isIntact ? SUCCESS : FAILURE;
}

function compact(folder) {
  const [before, after] = compactStore(folder);
  process.stdout.write(`${number(before)} bytes before, ${number(after)} bytes after\n`);
  return SUCCESS;
}

/** Prints all messages. Waits for a slow reader of stdout, and ends with one that has gone. */
async function print(folder, withText) {
  const reader = new NativeStoreReader(folder);
  let hasGone = false;
  process.stdout.on('error', () => {
    hasGone = true;
  });
  for (let lines = reader.next(withText); lines !== null; lines = reader.next(withText)) {
    await new Promise((resolve) => {
      process.stdout.write(lines, () => resolve());
    });
    if (hasGone) return FAILURE;
  }
  return SUCCESS;
}

const ACTIONS = {
  check,
  compact,
  dump: (folder) => print(folder, false),
  export: (folder) => print(folder, true),
};

async function run(_, [action, folder, ...rest]) {
  if (!Object.hasOwn(ACTIONS, action ?? '') || folder === undefined || rest.length > 0) {
    throw new UsageError('expected check, compact, dump or export, and the folder of a store');
  }
  return ACTIONS[action](folder);
}

module.exports = { options: {}, describe, run };
