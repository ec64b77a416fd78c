'use strict';

const path = require('node:path');
const { once } = require('node:events');
const { fork } = require('node:child_process');

const HANG_MS = 60_000;

/** A program of this folder, in a process of its own, that speaks by IPC. */
class Program {
  #child;

  constructor(name, ...args) {
    this.#child = fork(path.join(__dirname, name), args.map(String), {
      stdio: ['inherit', 'inherit', 'inherit', 'ipc', 'pipe'],
    });
    // Any number of questions may be open at one time.
    this.#child.setMaxListeners(0);
    /** How it has ended: its code and its signal. All that it has said has been heard by then. */
    this.ended = Promise.all([once(this.#child, 'exit'), once(this.#child, 'disconnect')]).then(
      ([end]) => end,
    );
  }

  /** Calls `listener` with all that it says. */
  on(listener) {
    this.#child.on('message', listener);
  }

  /** Ends what `block.js` has begun. */
  wake() {
    this.#child.stdio[4].write('w');
  }

  tell(command) {
    this.#child.send(command);
  }

  /** Tells it something, if there is something; the next that it says with this member. */
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

  /** Ends it as the system does it to one that does not listen. */
  kill() {
    this.#child.kill('SIGKILL');
    return this.ended;
  }
}

module.exports = Program;
