'use strict';

// A progress bar on stderr, while a command that takes a known time runs. Nothing is printed unless it is a terminal.

const WIDTH = 30;
/** Interval at which it is drawn, in milliseconds: commands that are over before have none. */
const INTERVAL = 1000;

class Progress {
  #begin = performance.now();
  #timer;

  /** `duration`: in milliseconds. */
  constructor(duration, stream = process.stderr) {
    if (stream.isTTY) {
      this.#timer = setInterval(() => {
        const share = Math.min((performance.now() - this.#begin) / duration, 1);
        const done = Math.round(share * WIDTH);
        stream.write(
          `\r[${'#'.repeat(done)}${' '.repeat(WIDTH - done)}] ${Math.round(share * 100)} %`,
        );
      }, INTERVAL);
      this.stream = stream;
    }
  }

  /** Removes it. */
  end() {
    clearInterval(this.#timer);
    this.stream?.write(`\r${' '.repeat(WIDTH + 10)}\r`);
  }
}

module.exports = Progress;
