'use strict';

// Sends requests, of which some are answered. These functions run in Node.js and, passed as text, in a page:
// they may use nothing but their arguments.

/** The connected asker and responder. `Client`: the class. `url`: the address of the broker. */
async function start(Client, url, options) {
  const [asker, responder] = ['asker', 'responder'].map((id) => new Client(id, url, options));
  await Promise.all([asker.connected(), responder.connected()]);
  responder.on('message', ([what, n], response) => {
    if (what === 'answer') response.send(n);
    // Every other responder listens for the cancellation.
    else if (n % 2 === 0) response.signal.addEventListener('abort', () => {});
  });
  // A shared signal that outlives all requests, as in programs that can abort everything.
  const { signal } = new AbortController();
  return { asker, responder, signal };
}

/**
 * Sends `count` requests, `inFlight` at a time: a third is answered, a third times out after `timeout` ms,
 * and a third is aborted. Resolves with the number of each outcome.
 */
async function ask({ asker, signal }, { count, inFlight, timeout }) {
  const ends = {};
  const request = async (n) => {
    if (n % 3 === 0) {
      const { message } = await asker.request(['answer', n], 'responder', { signal });
      return message === n ? 'answered' : 'wrong';
    }
    if (n % 3 === 1) {
      await asker.request(['silence', n], 'responder', { signal, timeout });
      return 'wrong';
    }
    const control = new AbortController();
    const asked = asker.request(['silence', n], 'responder', { signal: control.signal });
    // Before it is sent, or afterwards.
    if (n % 2 === 0) control.abort();
    else setTimeout(() => control.abort(), 1);
    await asked;
    return 'wrong';
  };
  let next = 0;
  const lane = async () => {
    while (next < count) {
      next += 1;
      const end = await request(next - 1).catch((error) => error.code);
      ends[end] = (ends[end] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  // Sent after all others: the responder has received all cancellations before this one.
  await asker.request(['answer', 0], 'responder');
  return ends;
}

/**
 * The sizes of the tables of both clients. Names of a session are shortened in a page, so tables are found by
 * class.
 */
function sizes(pair) {
  const found = { requests: 0, cancels: 0, waiting: 0 };
  for (const client of [pair.asker, pair.responder]) {
    const kSession = Object.getOwnPropertySymbols(client).find(
      ({ description }) => description === 'session',
    );
    const tables = Object.values(client[kSession]).filter((value) => value instanceof Map);
    for (const table of tables) {
      found[table.constructor === Map ? 'cancels' : 'requests'] += table.size;
    }
    found.waiting += client.bufferedAmount;
  }
  return found;
}

module.exports = { start, ask, sizes };
