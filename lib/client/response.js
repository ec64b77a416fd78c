'use strict';

const { coded, remote } = require('./errors');
const frames = require('./frames');

/** The object with which a program answers or rejects an incoming request. */
class Response {
  #session;
  #ack;
  #name;
  #controller;
  #isCancelled = false;

  /** Number of the attempt, from 1: how often the request was sent to a group. */
  attempt;

  /** `ack`: the ack of the request as the JSON text that was received; `name`: the ack as a name. */
  constructor(session, ack, name, attempt) {
    this.attempt = attempt ?? 1;
    this.#session = session;
    this.#ack = ack;
    this.#name = name;
    if (session.usesVersion2 && typeof name === 'string') {
      session.cancelHandlers.set(
        name,
        () => {
          this.#isCancelled = true;
          this.#abort();
        },
        ack.length,
      );
    }
  }

  // As in version 1, `send` may be detached from its object.

  send = (answer) => this.#write(this.#session.toText(answer));

  reject = (reason = 'refused') => {
    this.#session.assertVersion2();
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
    this.#controller?.abort(coded('ERR_WSMB_CANCELLED', 'request was cancelled'));
  }

  #write(message, error) {
    const session = this.#session;
    session.assertOpen();
    session.cancelHandlers.delete(this.#name);
    session.sendFrame(frames.answer(this.#ack, message, error, session.idText()), true);
    session.updateFlowControl();
  }
}

module.exports = Response;
