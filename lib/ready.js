'use strict';

/**
 * Whether a server listens, as a promise. It is made when somebody asks for it: a rejection that
 * nobody has asked for would be nobody's to handle.
 */
class Ready {
  #promise;
  #settle;
  /** Why it does not listen, or null; undefined as long as that is not known. */
  #fault;

  get promise() {
    if (this.#promise === undefined) {
      this.#promise = new Promise((resolve, reject) => {
        this.#settle = (fault) => (fault === null ? resolve() : reject(fault));
      });
      if (this.#fault !== undefined) {
        // Told already, when it became known.
        this.tell(this.#fault, true);
      }
    }
    return this.#promise;
  }

  /** It is known. `heard`: of a fault, somebody hears of it in another way. False if nobody asked. */
  tell(fault, heard) {
    this.#fault = fault;
    this.#settle?.(fault);
    if (heard) {
      this.#promise?.catch(() => {});
    }
    return this.#promise !== undefined;
  }
}

module.exports = Ready;
