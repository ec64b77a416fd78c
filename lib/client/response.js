'use strict';

const { coded, remote } = require('./errors');
const frames = require('./frames');

/** What a program answers a request with. */
class Response {
  #session;
  #ack;
  #name;
  #controller;
  #isCancelled = false;

  /**
   * `ack`: that of the request, its JSON text as it came; `name`: the same as a name, by which the session finds
   * the function that cancels it.
   */
  constructor(session, ack, name) {
    this.#session = session;
    this.#ack = ack;
    this.#name = name;
    if (session.speaks2 && typeof name === 'string') {
      session.cancels.set(name, () => {
        this.#isCancelled = true;
        this.#abort();
      });
    }
  }

  // As in version 1 functions that may be taken from it.

  send = (answer) => this.#write(this.#session.toText(answer));

  reject = (reason = 'refused') => {
    this.#session.assert2();
    const { code, message } = remote(reason);
    this.#write(undefined, JSON.stringify({ code, message }));
  };

  get signal() {
    this.#controller ??= new AbortController();
    if (this.#isCancelled) {
      this.#abort();
    }
    return this.#controller.signal;
  }

  #abort() {
    this.#controller?.abort(coded('ERR_WSMB_CANCELLED', 'nobody awaits an answer'));
  }

  #write(message, error) {
    const session = this.#session;
    session.assertOpen();
    session.cancels.delete(this.#name);
    session.push(frames.answer(this.#ack, message, error, session.idText()), true);
    session.pace();
  }
}

module.exports = Response;
