'use strict';

// The processes of a soak test: starts, queries, measures and ends them. Each is killed by its pid when the
// driver ends.

const { fork } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const path = require('node:path');
const proc = require('../testkit/proc');
const { DEADLINE } = require('./limits');

const children = new Set();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});

class Child {
  /** `broken` is called with each violation that the process reports, and if it ends unexpectedly. */
  constructor(name, script, args, broken) {
    this.name = name;
    this.ending = false;
    // In a group of its own, so that an interrupt from the keyboard reaches only the driver.
    this.child = fork(path.join(__dirname, script), args, { detached: true });
    children.add(this.child);
    this.exited = once(this.child, 'exit').then(([code, signal]) => {
      children.delete(this.child);
      if (!this.ending) broken(`${name} ended: ${signal ?? code}`);
      return signal ?? code;
    });
    this.child.on('message', (message) => {
      if (message.broken) broken(message.broken);
    });
  }

  /** The next message with this member. */
  async message(member, deadline = DEADLINE) {
    const signal = AbortSignal.timeout(deadline);
    for (;;) {
      const [message] = await once(this.child, 'message', { signal });
      if (member in message) return message;
    }
  }

  /** Sends a question. Resolves with the next message with this member. */
  ask(question, member, deadline) {
    const answer = this.message(member, deadline);
    this.child.send(question);
    return answer;
  }

  /** Sends a command to end. Resolves with the exit code or signal, 0 for success. */
  async end(word, timeout) {
    this.ending = true;
    if (this.child.connected) this.child.send(word);
    const timer = setTimeout(() => this.child.kill('SIGKILL'), timeout);
    const code = await this.exited;
    clearTimeout(timer);
    return code;
  }

  processorTime() {
    return Child.processorTimeOf(this.child.pid);
  }

  /** Processor time in seconds, including ended children. */
  static processorTimeOf(pid) {
    const { own, children } = proc.processorTime(pid);
    return own + children;
  }

  resident() {
    return proc.memory(this.child.pid).rss;
  }

  threads() {
    return Number(/^Threads:\s+(\d+)/m.exec(proc.read(this.child.pid, 'status'))[1]);
  }

  /** The targets of its open descriptors, without socket numbers and markers of deleted files. */
  descriptors() {
    const folder = `/proc/${this.child.pid}/fd`;
    const targets = [];
    for (const name of fs.readdirSync(folder)) {
      try {
        const target = fs.readlinkSync(path.join(folder, name));
        targets.push(target.replace(/\[\d+\]$| \(deleted\)$/, ''));
      } catch {
        // The descriptor was closed meanwhile.
      }
    }
    return targets.sort();
  }
}

module.exports = Child;
