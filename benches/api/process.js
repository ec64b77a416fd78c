'use strict';

// A child process that executes one command at a time, each with a timeout. It is killed by its pid after a
// timeout, at the end of its work, and when the parent ends.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');

/** Time in addition to the duration of a command, ms. */
const GRACE = 20_000;

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

class Process {
  #name;
  #child;
  #errors = '';
  #closed;

  constructor(script, ...args) {
    this.#name = [path.basename(script, '.js'), ...args].join(' ');
    this.#child = fork(path.join(__dirname, script), args, {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    running.add(this.#child);
    this.#child.on('error', () => {}); // then it ends, and `next` rejects
    this.#child.stderr.setEncoding('utf8').on('data', (text) => {
      if (this.#errors.length < 4096) this.#errors += text;
    });
    this.#closed = once(this.#child, 'close').then(([code, signal]) => {
      running.delete(this.#child);
      return code ?? signal;
    });
  }

  /** The next message of the process, within `seconds` and some grace. */
  async next(seconds = 0) {
    const milliseconds = seconds * 1000 + GRACE;
    const give = new AbortController();
    const timer = setTimeout(() => this.kill(), milliseconds);
    const silent = this.#closed.then((how) => {
      const why = how === 'SIGKILL' ? `silent for ${milliseconds} ms` : `ended with ${how}`;
      throw new Error(`${this.#name}: ${this.#errors.trim() || why}`);
    });
    try {
      const said = once(this.#child, 'message', { signal: give.signal });
      const [answer] = await Promise.race([said, silent]);
      return answer;
    } finally {
      silent.catch(() => {}); // if it ends later, this rejection is not awaited
      give.abort();
      clearTimeout(timer);
    }
  }

  /** Sends a command that takes `options.seconds`. Resolves with its result. */
  ask(command, options = {}) {
    this.#child.send({ command, ...options }, () => {}); // if the process has ended, `next` rejects
    return this.next(options.seconds);
  }

  kill() {
    this.#child.kill('SIGKILL');
  }
}

module.exports = Process;
