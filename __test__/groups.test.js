'use strict';

// Groups of workers: each message goes to one member.

const { once } = require('node:events');
const test = require('ava');
const { WebSocketServer } = require('ws');
const { startServer } = require('./support/start');
const { kinds, join, failure, awaited } = require('./support/clients');
const { raw } = require('./support/sessions');

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

for (const kind of kinds) {
  test(`${kind}: each message goes to one worker, and a slow one gets fewer`, async (t) => {
    const JOBS = 200;
    const server = await startServer(t);
    const sender = await join(t, kind, server, 'sender');
    const handled = new Map();
    const counts = [0, 0, 0];
    let finish;
    const all = new Promise((resolve) => {
      finish = resolve;
    });
    for (const place of counts.keys()) {
      const worker = await join(t, kind, server, `w${place}`);
      const jobs = await worker.subscribe('jobs.*', { group: 'workers', window: 2 });
      t.is(jobs.group, 'workers');
      jobs.handle(
        async (n, { topic, from }) => {
          t.deepEqual([topic, from], ['jobs.a', 'sender']);
          if (place === 0) await pause(50);
          counts[place] += 1;
          handled.set(n, (handled.get(n) ?? 0) + 1);
          if (handled.size === JOBS) finish();
        },
        { concurrency: 1 },
      );
    }
    for (let n = 0; n < JOBS; n += 1) sender.publish(n, 'jobs.a');
    await all;
    t.true([...handled.values()].every((count) => count === 1));
    t.true(counts[0] < JOBS / 4, `${counts}`);
  });

  test(`${kind}: a request is answered by one worker`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const asked = [];
    for (const id of ['a', 'b']) {
      const worker = await join(t, kind, server, id);
      const jobs = await worker.subscribe('jobs', { group: 'g' });
      jobs.handle((n) => {
        asked.push(n);
        return n * 2;
      });
    }
    const outcomes = await Promise.all(
      [...Array(20).keys()].map((n) => asker.request(n, { topic: 'jobs' })),
    );
    t.deepEqual(
      outcomes.map(({ message }) => message),
      [...Array(20).keys()].map((n) => 2 * n),
    );
    t.deepEqual(
      asked.sort((a, b) => a - b),
      [...Array(20).keys()],
    );
    const { answers } = await asker.requestAll(1, { topic: 'jobs' });
    t.is(answers.size, 1);
    t.deepEqual(await asker.deliver(1, { topic: 'jobs' }), { queued: 1, dropped: 0 });
    t.is(awaited(asker), 0);
  });

  test(`${kind}: with retry another worker gets the request of one that is gone or refuses`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const jobs = { topic: 'jobs' };
    const leaving = await join(t, kind, server, 'leaving');
    (await leaving.subscribe('jobs', { group: 'g' })).handle(() => leaving.close());
    t.is((await failure(asker.request(1, jobs))).code, 'GONE');

    const again = await join(t, kind, server, 'again');
    (await again.subscribe('jobs', { group: 'g' })).handle(() => again.close());
    const busy = await join(t, kind, server, 'busy');
    (await busy.subscribe('jobs', { group: 'g', window: 1 })).handle(() => {
      throw Object.assign(new Error('not now'), { code: 'UNAVAILABLE' });
    });
    const good = await join(t, kind, server, 'good');
    (await good.subscribe('jobs', { group: 'g' })).handle((n) => n + 1);
    t.deepEqual(await asker.request(1, jobs, { retry: 5 }), { from: 'good', message: 2 });
    t.is(awaited(asker), 0);
  });

  test(`${kind}: a worker learns which attempt a request is`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const jobs = { topic: 'jobs' };
    const attempts = [];
    const unavailable = () => {
      throw Object.assign(new Error('not now'), { code: 'UNAVAILABLE' });
    };
    const plain = await join(t, kind, server, 'plain');
    const seen = [];
    (await plain.subscribe('jobs')).on('message', (_message, response) => {
      seen.push(response?.attempt);
      response?.reject({ code: 'UNAVAILABLE' });
    });
    const worker = await join(t, kind, server, 'worker');
    const subscription = await worker.subscribe('jobs', { group: 'g' });
    subscription.handle((limit, { attempt }) => {
      attempts.push(attempt);
      return attempt < limit ? unavailable() : attempt;
    });
    t.is((await asker.request(3, jobs, { retry: 5 })).message, 3);
    t.is((await asker.request(1, jobs)).message, 1);
    t.is((await failure(asker.request(9, jobs, { retry: 1 }))).code, 'UNAVAILABLE');
    t.deepEqual(attempts, [1, 2, 3, 1, 1, 2]);
    // Only members of groups get the number.
    t.deepEqual(seen, [1, 1, 1, 1, 1, 1]);
    subscription.on('message', (_message, response) => attempts.push(response));
    await asker.deliver(0, jobs);
    await worker.request(0, 'nobody').catch(() => {});
    t.deepEqual(attempts.slice(6), [1, null]);
  });

  test(`${kind}: a request that is cancelled or has timed out while it waits is not handled`, async (t) => {
    const server = await startServer(t);
    const asker = await join(t, kind, server, 'asker');
    const worker = await join(t, kind, server, 'worker');
    const jobs = await worker.subscribe('jobs', { group: 'g' });
    const handled = [];
    jobs.handle((n) => handled.push(n));
    jobs.pause();
    await worker.request(0, 'nobody').catch(() => {});
    const dest = { topic: 'jobs' };
    const controller = new AbortController();
    const asked = [
      asker.request(1, dest, { signal: controller.signal }),
      asker.request(2, dest, { timeout: 20 }),
      asker.requestAll(3, dest, { timeout: 20 }),
    ];
    const last = asker.request(4, dest);
    const [aborted, expired] = asked.slice(0, 2).map(failure);
    const all = await asked[2];
    t.is(all.failed.size + all.answers.size, 0);
    controller.abort();
    t.deepEqual([(await aborted).code, (await expired).code], ['ABORT_ERR', 'TIMEOUT']);
    await asker.request(0, 'nobody').catch(() => {});
    jobs.resume();
    t.is((await last).message, 1);
    t.deepEqual(handled, [4]);
    t.is(awaited(asker), 0);
  });

  test(`${kind}: an iterator finishes a message when it asks for the next`, async (t) => {
    const server = await startServer(t);
    const sender = await join(t, kind, server, 'sender');
    const [a, b] = [await join(t, kind, server, 'a'), await join(t, kind, server, 'b')];
    const [first, second] = await Promise.all(
      [a, b].map((client) => client.subscribe('jobs', { group: 'g', window: 1 })),
    );
    const [ofFirst, ofSecond] = [first.messages(), second.messages()];
    for (let n = 0; n < 4; n += 1) sender.publish(n, 'jobs');
    const one = await ofFirst.next();
    const two = await ofSecond.next();
    t.deepEqual([one.value.message, two.value.message].sort(), [0, 1]);
    // The first one works on; the second one takes the rest.
    t.is((await ofSecond.next()).value.message, 2);
    t.is((await ofSecond.next()).value.message, 3);
    sender.publish(4, 'jobs');
    t.is((await ofFirst.next()).value.message, 4);
  });

  test(`${kind}: a paused worker gets nothing, and one that returns is a member again`, async (t) => {
    const server = await startServer(t);
    const sender = await join(t, kind, server, 'sender');
    const a = await join(t, kind, server, 'a', { reconnect: { minDelay: 1, maxDelay: 1 } });
    const jobs = await a.subscribe('jobs', { group: 'g' });
    const messages = jobs.messages();
    jobs.pause();
    // Behind the frame of the pause.
    await a.request(1, 'nobody').catch(() => {});
    const b = await join(t, kind, server, 'b');
    const other = await b.subscribe('jobs', { group: 'g' });
    const toOther = other.messages();
    t.deepEqual(await sender.deliver(1, { topic: 'jobs' }), { queued: 1, dropped: 0 });
    t.is((await toOther.next()).value.message, 1);
    await other.unsubscribe();
    jobs.resume();
    sender.publish(2, 'jobs');
    t.is((await messages.next()).value.message, 2);
    const back = new Promise((resolve) => a.once('reconnected', resolve));
    server.disconnect('a', 3000, 'again');
    await back;
    await a.request(1, 'nobody').catch(() => {});
    sender.publish(3, 'jobs');
    t.is((await messages.next()).value.message, 3);
    await jobs.unsubscribe();
    t.is(server.stats().subscriptions, 0);
  });

  test(`${kind}: the options of a group are checked at the call`, async (t) => {
    const server = await startServer(t);
    const client = await join(t, kind, server, 'c');
    for (const group of ['', 'a.b', '*', 'a b', 5, null]) {
      t.is((await failure(client.subscribe('t', { group }))).code, 'ERR_WSMB_TOPIC', `${group}`);
    }
    t.is((await failure(client.subscribe('t', { group: 'g', window: 0 }))).code, 'ERR_WSMB_OPTION');
    t.is((await failure(client.request(1, 'x', { retry: -1 }))).code, 'ERR_WSMB_OPTION');
  });

  test(`${kind}: a request with retry is asked again if the member that was asked has left`, async (t) => {
    // A broker that has offered a member which leaves before it is asked.
    const broker = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    t.teardown(() => broker.close());
    await once(broker, 'listening');
    const asked = [];
    broker.on('connection', (socket) => {
      socket.on('message', (data) => {
        const { action, ack, ref, attempt } = JSON.parse(data);
        if (action === 'register') {
          socket.send('{"action":"registered","id":"a","protocol":2}');
        } else if (action === 'send') {
          asked.push(attempt);
          if (ref) socket.send(JSON.stringify({ action: 'receipt', ref, queued: 1, dropped: 0 }));
          const answer = { action: 'answer', ack, from: 'w', message: 'done' };
          const failed = { action: 'failed', ack, dest: 'w', code: 'UNKNOWN_ID' };
          socket.send(JSON.stringify(asked.length === 1 ? failed : answer));
        }
      });
    });
    const asker = await join(t, kind, broker, 'a');
    const { message } = await asker.request(1, { topic: 'jobs' }, { retry: 1 });
    t.is(message, 'done');
    t.deepEqual(asked, [undefined, 2]);
    asked.length = 0;
    t.is((await failure(asker.request(1, 'w', { retry: 1 }))).code, 'UNKNOWN_ID');
  });
}

test('an idle worker whose queue was full gets the messages that have waited', async (t) => {
  const options = { maxBackpressure: 1024, slowConsumer: 'drop' };
  const server = await startServer(t, options);
  const sender = await join(t, 'addon', server, 'sender');
  const { socket, send, next } = await raw(t, server, 'worker');
  await next();
  send({ action: 'subscribe', topic: 'jobs', group: 'g', window: 8, ref: 1 });
  t.is((await next()).action, 'subscribed');
  socket.pause();
  // Until neither the sockets nor the queue have room.
  const filler = 'x'.repeat(1 << 20);
  while (server.stats().dropped === 0) await sender.deliver(filler, 'worker');
  t.like(await sender.deliver('job', { topic: 'jobs' }), { queued: 1 });
  socket.resume();
  let frame;
  do frame = await next();
  while (frame.topic !== 'jobs');
  t.like(frame, { message: 'job', group: 'g' });
});
