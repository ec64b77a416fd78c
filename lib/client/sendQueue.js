'use strict';

/** The frames that wait for a connection, in order, each with the entry of its request, if it is one. */
class SendQueue {
  #items = new Set();
  /** Characters of all frames. */
  characters = 0;

  addFrame(frame, entry = {}) {
    entry.queuedItem = [frame, entry];
    this.#items.add(entry.queuedItem);
    this.characters += frame.length;
  }

  /** Calls a function that adds frames, and places these before the others. */
  prepend(add) {
    const others = this.#items;
    this.#items = new Set();
    add();
    for (const item of others) {
      this.#items.add(item);
    }
  }

  /** Removes the frame of a request, if it is queued. */
  removeFrame({ queuedItem }) {
    if (this.#items.delete(queuedItem)) {
      this.characters -= queuedItem[0].length;
    }
  }

  /** Calls `send` with each frame, and removes them. */
  drainTo(send) {
    for (const [frame, entry] of this.#items) {
      send(frame);
      entry.queuedItem = undefined;
    }
    this.removeAll();
  }

  removeAll() {
    this.#items.clear();
    this.characters = 0;
  }
}

module.exports = SendQueue;
