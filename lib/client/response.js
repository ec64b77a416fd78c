'use strict';

const { coded, remote } = require('./errors');
const frames = require('./frames');

/**
 * What a program answers a request with. `key`: its ack, any JSON; `name`: the same as a name, by which the
 * session finds the function that cancels it.
 */
function respond(session, key, name) {
  let controller;
  let isCancelled = false;
  const abort = () => controller?.abort(coded('ERR_WSMB_CANCELLED', 'nobody awaits an answer'));
  if (session.speaks2) {
    session.cancels.set(name, () => {
      isCancelled = true;
      abort();
    });
  }
  const write = (message, error) => {
    session.assertOpen();
    session.cancels.delete(name);
    session.push(frames.answer(JSON.stringify(key), message, error, session.idText()), true);
    session.pace();
  };
  // As in version 1 a plain object, whose functions may be taken from it.
  return {
    send: (answer) => write(JSON.stringify(answer)),
    reject: (reason) => {
      session.assert2();
      const { code, message } = remote(reason);
      write(undefined, JSON.stringify({ code, message }));
    },
    get signal() {
      controller ??= new AbortController();
      if (isCancelled) {
        abort();
      }
      return controller.signal;
    },
  };
}

module.exports = respond;
