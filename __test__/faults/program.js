'use strict';

const path = require('node:path');
const { once } = require('node:events');
const { fork } = require('node:child_process');

const HANG_MS = 60_000;

/** A program of this folder in a process of its own, with IPC. */
class Program {
  #child;

  constructor(name, ...args) {
    this.#child = fork(path.join(__dirname, name), args.map(String), {
      stdio: ['inherit', 'inherit', 'inherit', 'ipc', 'pipe'],
    });
    // The number of open questions has no limit.
    this.#child.setMaxListeners(0);
    /** The exit code and signal of the program, once all of its messages were received. */
    this.ended = Promise.all([once(this.#child, 'exit'), once(this.#child, 'disconnect')]).then(
      ([end]) => end,
    );
  }

  /** Calls `listener` with each message of the program. */
  on(listener) {
    this.#child.on('message', listener);
  }

  /** Ends the block that `block.js` has begun. */
  wake() {
    this.#child.stdio[4].write('w');
  }

  tell(command) {
    this.#child.send(command);
  }

  /** Sends a command, if given. Resolves with the next message that has this member. */
  hear(member, command) {
    return new Promise((resolve, reject) => {
      const settle = (outcome, value) => {
        clearTimeout(late);
        this.#child.off('message', listener);
        this.#child.off('exit', ended);
        outcome(value);
      };
      const listener = (said) => {
        if (member in said) settle(resolve, said);
      };
      const ended = (code, signal) => settle(reject, new Error(`ended by ${signal ?? code}`));
      const late = setTimeout(() => settle(reject, new Error(`no ${member}`)), HANG_MS);
      this.#child.on('message', listener);
      this.#child.on('exit', ended);
      if (command) this.tell(command);
    });
  }

  /** Kills the program as the system kills one that does not react. */
  kill() {
    this.#child.kill('SIGKILL');
    return this.ended;
  }
}

module.exports = Program;
