'use strict';

// The program of a client: carries out the calls of a conversation and reports the events of the client. It
// needs no other file and speaks JSON, so that it can also run in a page.

/** The members of an error that conversations name. */
const described = ({ code, message, from }) => ({ code, message, from });

/** Codes by id, from a map of codes or of errors with codes. */
const codes = (failed) => Object.fromEntries([...failed].map(([id, why]) => [id, why.code ?? why]));

/** The result of each call that returns a promise, as JSON. */
const RESULTS = {
  request: ({ from, message }) => ({ from, message }),
  requestAll: ({ answers, failed }) => ({
    answers: [...answers].map(([from, message]) => ({ from, message })),
    failed: codes(failed),
  }),
  deliver: ({ delivered, failed }) => ({ delivered, failed: codes(failed) }),
};

/** The program of this client: `call(step)` and `nextReport()`. */
function actor(client) {
  const reports = [];
  const waiting = [];
  /** Responses by the number under which they were reported. */
  const responses = [];
  /** Abort controllers of calls by name. */
  const controllers = new Map();

  // JSON drops undefined members.
  const tell = (report) => {
    const text = JSON.parse(JSON.stringify(report));
    if (waiting.length > 0) waiting.shift()(text);
    else reports.push(text);
  };

  client.on('open', () => tell({ report: 'open' }));
  client.on('registered', () => tell({ report: 'registered' }));
  client.on('unregistered', (id) => tell({ report: 'unregistered', id: id ?? undefined }));
  client.on('replaced', (id) => tell({ report: 'replaced', id }));
  client.on('goaway', (within) => tell({ report: 'goaway', within }));
  client.on('error', (error) => tell({ report: 'error', code: error.code }));
  client.on('close', (code) => tell({ report: 'close', code: code ?? null }));
  client.on('message', (message, response, from) => {
    const number = response ? responses.push(response) - 1 : undefined;
    response?.signal?.addEventListener('abort', () => tell({ report: 'cancel', response: number }));
    tell({ report: 'message', message, response: number, from });
  });

  /** A call whose result is reported later. */
  function start({ call, as, message, dest, timeout, count }) {
    const controller = new AbortController();
    controllers.set(as, controller);
    const options = { signal: controller.signal };
    if (timeout !== undefined) options.timeout = timeout;
    if (count !== undefined) options.count = count;
    new Promise((resolve) => resolve(client[call](message, dest, options))).then(
      (value) => tell({ outcome: as, resolves: RESULTS[call](value) }),
      (error) => tell({ outcome: as, rejects: described(error) }),
    );
  }

  function perform(step) {
    const { call, message, dest, ack, token, response } = step;
    switch (call) {
      case 'send': {
        const answered = (from, answer) => tell({ report: 'answer', ack, from, message: answer });
        client.send(message, dest, ack === undefined ? undefined : answered);
        break;
      }
      case 'answer':
        responses[response].send(message);
        break;
      case 'reject':
        responses[response].reject(Object.assign(new Error(message), { code: step.code }));
        break;
      case 'cancel':
        controllers.get(step.as).abort();
        break;
      case 'register':
        client.register(token);
        break;
      case 'unregister':
        client.unregister();
        break;
      case 'close':
        client.close();
        break;
      default:
        start(step);
    }
  }

  return {
    /** Carries out a step. Returns the code of the error that it threw, or null. */
    call(step) {
      try {
        perform(step);
        return null;
      } catch (error) {
        return error.code ?? String(error);
      }
    },
    /** The next report or result. */
    nextReport() {
      if (reports.length > 0) return Promise.resolve(reports.shift());
      return new Promise((resolve) => waiting.push(resolve));
    },
  };
}

module.exports = actor;
