'use strict';

// The processes of a soak: started, asked, measured from outside, and ended; each killed by its own pid
// when the driver ends.

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
  /** `broken` is told what it says is wrong, and when it ends by itself. */
  constructor(name, script, args, broken) {
    this.name = name;
    this.ending = false;
    // A group of its own: an interrupt from the keyboard is the driver's alone.
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

  /** The next message in which there is this member. */
  async message(member, deadline = DEADLINE) {
    const signal = AbortSignal.timeout(deadline);
    for (;;) {
      const [message] = await once(this.child, 'message', { signal });
      if (member in message) return message;
    }
  }

  /** Says something, and resolves with the next message that has this member. */
  ask(question, member, deadline) {
    const answer = this.message(member, deadline);
    this.child.send(question);
    return answer;
  }

  /** Tells it to end, and resolves when it has: what it ended with, 0 if all is well. */
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

  /** Processor time in seconds, that of its own ended children included. */
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

  /** What its open descriptors stand for, without the numbers of sockets and what became of files. */
  descriptors() {
    const folder = `/proc/${this.child.pid}/fd`;
    const targets = [];
    for (const name of fs.readdirSync(folder)) {
      try {
        const target = fs.readlinkSync(path.join(folder, name));
        targets.push(target.replace(/\[\d+\]$| \(deleted\)$/, ''));
      } catch {
        // Closed meanwhile.
      }
    }
    return targets.sort();
  }
}

module.exports = Child;
