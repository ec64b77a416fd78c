'use strict';

// What is asked, and answered or not. These functions run in Node.js and in a page, to which they are handed
// as text: they may use nothing but their arguments.

/** The asker and the responder, connected. `Client`: the class; `url`: of the broker. */
async function start(Client, url, options) {
  const [asker, responder] = ['asker', 'responder'].map((id) => new Client(id, url, options));
  await Promise.all([asker.connected(), responder.connected()]);
  responder.on('message', ([what, n], response) => {
    if (what === 'answer') response.send(n);
    // Some watch whether it is still of use.
    else if (n % 2 === 0) response.signal.addEventListener('abort', () => {});
  });
  // As of a program that could end them all at once: it outlives them.
  const { signal } = new AbortController();
  return { asker, responder, signal };
}

/**
 * Makes so many requests, `inFlight` at a time: a third is answered, a third is not within `timeout` ms, and
 * a third is aborted. Resolves with how many came to which end.
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
    // Before it is sent, or when it has been.
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
  // Behind all that was sent: whatever was cancelled, the responder knows by now.
  await asker.request(['answer', 0], 'responder');
  return ends;
}

/** What the two remember. The names of a session are others in a page: its tables are known by their classes. */
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
