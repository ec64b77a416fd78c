'use strict';

/**
 * The promise `server.ready`: whether the server listens. The promise is created when it is first read, so that
 * programs that do not read it get no unhandled rejection.
 */
class Ready {
  #promise;
  #settlePromise;
  /** The error because of which the server does not listen, or null; undefined until either is known. */
  #error;

  get promise() {
    if (this.#promise === undefined) {
      this.#promise = new Promise((resolve, reject) => {
        this.#settlePromise = (error) => (error === null ? resolve() : reject(error));
      });
      if (this.#error !== undefined) {
        // The error was reported when it became known.
        this.settle(this.#error, true);
      }
    }
    return this.#promise;
  }

  /**
   * Resolves the promise if `error` is null, and otherwise rejects it. `isReported`: the error is reported in
   * another way, too, and must not be an unhandled rejection. Returns true if the promise was read.
   */
  settle(error, isReported) {
    this.#error = error;
    this.#settlePromise?.(error);
    if (isReported) {
      this.#promise?.catch(() => {});
    }
    return this.#promise !== undefined;
  }
}

module.exports = Ready;
