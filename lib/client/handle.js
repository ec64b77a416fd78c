'use strict';

// `client.handle()`: answers incoming messages with the results of a function.

const { coded } = require('./errors');
const stream = require('./messages');

/** Number of calls from which a limit is no limit. */
const MAX_LOOPS = 10_000;

/** The signal of messages whose senders wait for no answer: it is never aborted. */
const { signal: NEVER } = new AbortController();

/**
 * Calls `handler(message, context)` for each message, up to `concurrency` at a time. If the sender waits for an
 * answer, the result is the answer, and an error refuses the request. Returns a function that stops it:
 * messages that have arrived are still handled.
 */
function handle(session, handler, { concurrency }) {
  if (session.handler) {
    throw coded('ERR_WSMB_HANDLER', 'has a handler');
  }
  const run = async ({ message, from, response }) => {
    try {
      const context = {
        from,
        get signal() {
          return response?.signal ?? NEVER;
        },
      };
      const answer = await handler(message, context);
      response?.send(answer ?? null);
    } catch (error) {
      session.reportHandlerError(error, response);
    }
  };
  session.handler = run;
  let messages = {
    pushMessage: run,
    endStream: () => session.messageStreams.delete(messages),
  };
  if (concurrency < MAX_LOOPS) {
    messages = stream(session, { highWaterMark: concurrency });
    const loop = async () => {
      for await (const each of messages) {
        await run(each);
      }
    };
    for (let count = 0; count < concurrency; count += 1) {
      loop();
    }
  } else {
    session.messageStreams.add(messages);
  }
  return () => {
    if (session.handler === run) {
      session.handler = undefined;
    }
    messages.endStream();
  };
}

module.exports = handle;
