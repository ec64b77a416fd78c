'use strict';

// `client.handle()`: answers incoming messages with the results of a function.

const { checkOptions, wrong } = require('./arguments');
const { coded } = require('./errors');
const stream = require('./messages');

/** Number of calls from which a limit is no limit. */
const MAX_LOOPS = 10_000;

/** The signal of messages whose senders wait for no answer: it is never aborted. */
const { signal: NEVER } = new AbortController();

/**
 * Calls `handler(message, context)` for each message, up to `concurrency` at a time. If the sender waits for an
 * answer, the result is the answer, and an error refuses the request. Returns a function that stops it:
 * messages that have arrived are still handled. `source`: the client's session, or a subscription.
 */
function handle(session, handler, options, source = session) {
  if (typeof handler !== 'function') {
    throw wrong('OPTION', 'no handler');
  }
  const { concurrency } = checkOptions(options, 'concurrency');
  session.assertOpen();
  if (source.handler) {
    throw coded('ERR_WSMB_HANDLER', 'has a handler');
  }
  const run = async ({ message, from, topic, response }, _size, finish) => {
    try {
      const context = {
        from,
        topic,
        attempt: response?.attempt ?? 1,
        get signal() {
          return response?.signal ?? NEVER;
        },
      };
      const answer = await handler(message, context);
      response?.send(answer ?? null);
    } catch (error) {
      session.reportHandlerError(error, response);
    } finally {
      finish?.();
    }
  };
  source.handler = run;
  let messages = {
    pushMessage: run,
    endStream: () => source.messageStreams.delete(messages),
  };
  if (concurrency < MAX_LOOPS) {
    messages = stream(session, { highWaterMark: concurrency }, source.messageStreams);
    const loop = async () => {
      for await (const each of messages) {
        await run(each);
      }
    };
    for (let count = 0; count < concurrency; count += 1) {
      loop();
    }
  } else {
    source.messageStreams.add(messages);
  }
  return () => {
    if (source.handler === run) {
      source.handler = undefined;
    }
    messages.endStream();
  };
}

module.exports = handle;
