'use strict';

// Mailboxes (rules 45 to 47 of spec/protocol.md): messages that wait for their receiver until it has acknowledged them.

const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('ava');
const { startRelay } = require('./support/relay');
const { startServer } = require('./support/start');
const { kinds, urlOf, open, join, failure } = require('./support/clients');

const mailboxes = [{ mailbox: '*' }];
const QUICK = { minDelay: 10, maxDelay: 50, jitter: 0 };

/** The next messages of a mailbox: message, offset and attempt. The last one is not acknowledged. */
async function take(mailbox, count) {
  const taken = [];
  for await (const mail of mailbox) {
    taken.push([mail.message, mail.offset, mail.attempt]);
    if (taken.length === count) {
      mail.ack();
      return taken;
    }
  }
}

/** Resolves once the mailbox has this number of messages. */
async function holds(server, name, messages) {
  while (server.mailbox(name).messages !== messages) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function onDisk(t, store) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-mail-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return { mailboxes: [{ mailbox: '*', disk: true }], store: { path: folder, ...store } };
}

for (const kind of kinds) {
  test(`${kind}: rules 45 and 46: messages wait for an absent receiver, which acknowledges them`, async (t) => {
    const server = await startServer(t, { mailboxes });
    const sender = await join(t, kind, server, 's');
    const receipt = await sender.deliver({ a: 1 }, { mailbox: 'c' });
    t.deepEqual(receipt, { stored: new Map([['c', 'memory']]), failed: new Map(), duplicates: [] });
    sender.send('two', { mailbox: ['c', 'd', 'c'] });
    await holds(server, 'd', 1);
    const client = await join(t, kind, server, 'c');
    const mailbox = await client.openMailbox();
    t.is(mailbox.name, 'c');
    t.is(mailbox.waiting, 2);
    t.deepEqual(await take(mailbox, 2), [
      [{ a: 1 }, 1, 1],
      ['two', 2, 1],
    ]);
    await holds(server, 'c', 0);
    const heard = once(mailbox, 'message');
    await sender.deliver('live', { mailbox: 'c' }, { key: 'k1' });
    const [message, mail] = await heard;
    t.is(message, 'live');
    t.like(mail, { message: 'live', from: 's', offset: 4, attempt: 1, key: 'k1' });
    t.is(server.mailbox('c').messages, 1);
    mail.ack();
    mail.ack();
    mail.retry();
    await holds(server, 'c', 0);
    t.is(server.mailbox('d').messages, 1);
    await mailbox.close();
    await sender.deliver('later', { mailbox: 'c' });
    t.is(server.mailbox('c').messages, 1);
    await mailbox.close();
  });

  test(`${kind}: rule 46.4: a message that is given back is delivered again, as another attempt`, async (t) => {
    const server = await startServer(t, { mailboxes });
    const client = await join(t, kind, server, 'c');
    await client.deliver('a', { mailbox: 'c' });
    const mailbox = await client.openMailbox('c', { window: 1 });
    const attempts = [];
    mailbox.on('message', (_message, mail) => {
      attempts.push(mail.attempt);
      if (mail.attempt === 3) mail.ack();
      else mail.retry(mail.attempt === 1 ? 0 : 30);
    });
    await holds(server, 'c', 0);
    t.deepEqual(attempts, [1, 2, 3]);
  });

  test(`${kind}: a handler that fails gets the message again, and then it is acknowledged`, async (t) => {
    const server = await startServer(t, { mailboxes });
    const client = await join(t, kind, server, 'c');
    const failed = once(client, 'error');
    const mailbox = await client.openMailbox();
    const seen = [];
    const stop = mailbox.handle(async (message, { attempt }) => {
      seen.push([message, attempt]);
      if (attempt === 1 && message === 'bad') throw new Error('not yet');
    });
    t.is(
      (await failure(Promise.resolve().then(() => mailbox.handle(() => {})))).code,
      'ERR_WSMB_HANDLER',
    );
    await client.deliver('bad', { mailbox: 'c' });
    await client.deliver('good', { mailbox: 'c' });
    t.is((await failed)[0].message, 'not yet');
    await holds(server, 'c', 0);
    t.deepEqual(seen, [
      ['bad', 1],
      ['good', 1],
      ['bad', 2],
    ]);
    stop();
    await client.deliver('waits', { mailbox: 'c' });
    t.deepEqual(await take(mailbox, 1), [['waits', 3, 1]]);
  });

  test(`${kind}: what a lost connection had is delivered again, and what the program still has is not`, async (t) => {
    const server = await startServer(t, { mailboxes });
    const relay = await startRelay(t, server);
    const sender = await join(t, kind, server, 's');
    const client = await open(t, kind, 'c', urlOf(relay), { reconnect: QUICK }).connected();
    const mailbox = await client.openMailbox();
    const mails = [];
    mailbox.on('message', (_message, mail) => mails.push(mail));
    for (const message of ['a', 'b', 'c']) await sender.deliver(message, { mailbox: 'c' });
    while (mails.length < 3) await once(mailbox, 'message');
    const lost = once(server, 'disconnected');
    relay.cut();
    await lost;
    // Told to the broker once the client is back.
    mails[1].ack();
    const back = once(client, 'reconnected');
    relay.mend();
    await back;
    await holds(server, 'c', 2);
    await sender.deliver('d', { mailbox: 'c' });
    while (mails.length < 4) await once(mailbox, 'message');
    t.deepEqual(
      mails.map(({ message, attempt }) => [message, attempt]),
      [
        ['a', 1],
        ['b', 1],
        ['c', 1],
        ['d', 1],
      ],
    );
    for (const mail of mails) mail.ack();
    await holds(server, 'c', 0);
    // Another process has nothing of that.
    await sender.deliver('e', { mailbox: 'c' });
    await client.close();
    const other = await join(t, kind, server, 'c');
    t.deepEqual(await take(await other.openMailbox(), 1), [['e', 5, 2]]);
  });

  test(`${kind}: rule 45.4: a key is stored once, also after the message was acknowledged`, async (t) => {
    const server = await startServer(t, { mailboxes });
    const client = await join(t, kind, server, 'c');
    const other = await join(t, kind, server, 'd');
    const deliver = (from, name) => from.deliver(1, { mailbox: name }, { key: 'k' });
    t.deepEqual((await deliver(client, 'c')).duplicates, []);
    t.deepEqual((await deliver(client, 'c')).duplicates, ['c']);
    t.is(server.mailbox('c').messages, 1);
    // A key is that of a sender for a mailbox.
    t.deepEqual((await deliver(other, 'c')).duplicates, []);
    t.deepEqual((await deliver(client, 'd')).duplicates, []);
    await take(await client.openMailbox(), 2);
    await holds(server, 'c', 0);
    t.deepEqual((await deliver(client, 'c')).duplicates, ['c']);
    t.is(server.mailbox('c').messages, 0);
  });

  test(`${kind}: rule 45.3: a mailbox without room, or without a rule, says so`, async (t) => {
    const server = await startServer(t, {
      mailboxes: [{ mailbox: 'a*', messages: 2 }],
      maxFanoutBytes: 100,
    });
    const client = await join(t, kind, server, 'c');
    const deliver = (name) => client.deliver(1, { mailbox: name });
    await deliver('ann');
    await deliver('ann');
    const { stored, failed } = await client.deliver(1, { mailbox: ['ann', 'amy'] });
    t.deepEqual([...stored], [['amy', 'memory']]);
    t.is(failed.get('ann').code, 'FULL');
    const code = async (promise) => (await failure(promise)).code;
    t.is(await code(deliver('bob')), 'ERR_WSMB_NO_MAILBOX');
    const many = Array.from({ length: 20 }, (_, n) => `a${n}`);
    t.is(await code(client.deliver('x'.repeat(9), { mailbox: many })), 'ERR_WSMB_MAX_FANOUT');
    t.is(await code(client.openMailbox('bob')), 'ERR_WSMB_NO_MAILBOX');
    t.is(await code(client.request(1, { mailbox: 'ann' })), 'ERR_WSMB_DEST');
    t.is(await code(client.deliver(1, { mailbox: [] })), 'ERR_WSMB_DEST');
    t.is(await code(client.deliver(1, { mailbox: 'ann' }, { key: '' })), 'ERR_WSMB_OPTION');
    t.is(await code(client.deliver(1, 'ann', { key: 'k' })), 'ERR_WSMB_OPTION');
    await client.openMailbox('ann');
    t.is(await code(client.openMailbox('ann')), 'ERR_WSMB_NOT_OPEN');
  });

  test(`${kind}: several consumers of a mailbox share its messages`, async (t) => {
    const server = await startServer(t, { mailboxes });
    const workers = await Promise.all(['w1', 'w2'].map((id) => join(t, kind, server, id)));
    const taken = { w1: [], w2: [] };
    const boxes = [];
    for (const worker of workers) {
      const mailbox = await worker.openMailbox('work', { window: 2 });
      mailbox.on('message', (_message, mail) => taken[worker.id].push(mail));
      boxes.push(mailbox);
    }
    const sender = await join(t, kind, server, 's');
    for (let n = 0; n < 6; n += 1) await sender.deliver(n, { mailbox: 'work' });
    while (taken.w1.length + taken.w2.length < 4) await once(boxes[0], 'message');
    t.is(taken.w1.length, 2);
    t.is(taken.w2.length, 2);
    const [first] = taken.w1;
    first.ack();
    while (taken.w1.length < 3) await once(boxes[0], 'message');
    await workers[0].close();
    for (const mail of taken.w2) mail.ack();
    while (taken.w2.length < 4) await once(boxes[1], 'message');
    for (const mail of taken.w2) mail.ack();
    while (taken.w2.length < 5) await once(boxes[1], 'message');
    for (const mail of taken.w2) mail.ack();
    await holds(server, 'work', 0);
    const all = [...taken.w2.map(({ message }) => message), first.message].sort();
    t.deepEqual(all, [0, 1, 2, 3, 4, 5]);
  });

  test(`${kind}: messages and keys on the disk survive a restart of the server`, async (t) => {
    const options = onDisk(t);
    let server = await startServer(t, options);
    let client = await join(t, kind, server, 'c');
    for (const message of ['a', 'b', 'c']) {
      const { stored } = await client.deliver(message, { mailbox: 'c' }, { key: message });
      t.is(stored.get('c'), 'disk');
    }
    t.deepEqual(await take(await client.openMailbox(), 1), [['a', 1, 1]]);
    await holds(server, 'c', 2);
    await client.close();
    await server.close();
    server = await startServer(t, options);
    client = await join(t, kind, server, 'c');
    for (const key of ['a', 'b']) {
      const { duplicates } = await client.deliver(key, { mailbox: 'c' }, { key });
      t.deepEqual(duplicates, ['c']);
    }
    // Whether they were delivered before is not known.
    t.deepEqual(await take(await client.openMailbox(), 2), [
      ['b', 2, 2],
      ['c', 3, 2],
    ]);
  });

  test(`${kind}: a delivery is sent again after a lost connection, and stored once`, async (t) => {
    // The receipt comes later than the connection is lost.
    const server = await startServer(t, onDisk(t, { sync: 300 }));
    const relay = await startRelay(t, server);
    const client = await open(t, kind, 'c', urlOf(relay), { reconnect: QUICK }).connected();
    const delivery = client.deliver(1, { mailbox: 'x' });
    await holds(server, 'x', 1);
    relay.cut();
    relay.mend();
    const { stored, duplicates } = await delivery;
    t.is(stored.get('x'), 'disk');
    t.deepEqual(duplicates, ['x']);
    t.is(server.mailbox('x').messages, 1);
  });
}

for (const kind of kinds) {
  test(`${kind}: messages that came before there was a listener are the first ones it gets`, async (t) => {
    const server = await startServer(t, { mailboxes });
    const client = await join(t, kind, server, 'c');
    for (let n = 0; n < 5; n += 1) await client.deliver(n, { mailbox: 'c' });
    const mailbox = await client.openMailbox();
    // Behind the messages.
    client.on('message', (message, response) => response?.send(message));
    await client.request('are all here?', 'c');
    const seen = [];
    mailbox.on('message', (message, mail) => {
      seen.push(message);
      mail.ack();
    });
    // A message that comes before the listener has got the others.
    mailbox.push({ message: 'next', ack() {} });
    await holds(server, 'c', 0);
    t.deepEqual(seen, [0, 1, 2, 3, 4, 'next']);
  });
}

for (const kind of kinds) {
  test(`${kind}: rule 45.5: messages to a topic go into a mailbox, too`, async (t) => {
    const server = await startServer(t, {
      mailboxes: [{ mailbox: 'workers', topic: 'jobs.>', messages: 2 }],
      keep: [{ topic: 'jobs.kept' }],
    });
    const [sender, worker] = await Promise.all(['s', 'w'].map((id) => join(t, kind, server, id)));
    const inWorkers = { mailboxes: new Map([['workers', 'memory']]), failed: new Map() };
    const first = await sender.deliver('a', { topic: 'jobs.x' });
    t.deepEqual(first, { queued: 0, dropped: 0, ...inWorkers });
    const subscription = await worker.subscribe('jobs.*');
    const heard = once(subscription, 'message');
    const second = await sender.deliver('b', { topic: 'jobs.kept' });
    t.deepEqual(second, { queued: 1, dropped: 0, offset: 1, stored: 'memory', ...inWorkers });
    t.is((await heard)[0], 'b');
    const { failed, mailboxes: none } = await sender.deliver('c', { topic: 'jobs.x' });
    t.is(failed.get('workers').code, 'FULL');
    t.is(none.size, 0);
    sender.publish('d', 'other');
    const seen = [];
    for await (const mail of await worker.openMailbox('workers')) {
      seen.push([mail.message, mail.topic, mail.from]);
      mail.ack();
      if (seen.length === 2) break;
    }
    t.deepEqual(seen, [
      ['a', 'jobs.x', 's'],
      ['b', 'jobs.kept', 's'],
    ]);
    t.is(server.stats().withoutSubscriber, 1);
  });
}

test('rule 47.1: a message that was delivered too often goes to the topic for such ones', async (t) => {
  const server = await startServer(t, {
    mailboxes: [{ mailbox: '*', maxDeliver: 2, deadLetters: 'dead' }],
    keep: [{ topic: 'dead' }],
  });
  const [sender, client] = await Promise.all(['s', 'c'].map((id) => join(t, 'addon', server, id)));
  const dead = await client.subscribe('dead');
  const heard = once(dead, 'message');
  const mailbox = await client.openMailbox();
  let count = 0;
  mailbox.on('message', (_message, mail) => {
    count += 1;
    mail.retry();
  });
  await sender.deliver({ poison: true }, { mailbox: 'c' });
  const [message, , from, topic] = await heard;
  t.deepEqual([message, from, topic], [{ poison: true }, 's', 'dead']);
  t.is(count, 2);
  t.is(server.mailbox('c').messages, 0);
});

test('rule 47.2: a message that is too old is removed', async (t) => {
  const server = await startServer(t, { mailboxes: [{ mailbox: '*', age: 50 }] });
  const client = await join(t, 'addon', server, 'c');
  await client.deliver(1, { mailbox: 'x' });
  await holds(server, 'x', 0);
  t.is((await client.openMailbox('x')).waiting, 0);
});

test('under authentication a client opens its own mailbox, and sends to those whose ids it may send to', async (t) => {
  let open = ['work-*'];
  const server = await startServer(t, {
    mailboxes,
    authenticate: () => ({ send: ['a*'], mailboxes: open }),
  });
  const client = await join(t, 'addon', server, 'c', { token: 't' });
  const code = async (promise) => (await failure(promise)).code;
  await client.deliver(1, { mailbox: 'ann' });
  t.is(await code(client.deliver(1, { mailbox: 'bob' })), 'ERR_WSMB_FORBIDDEN');
  t.is(await code(client.openMailbox('ann')), 'ERR_WSMB_FORBIDDEN');
  const own = await client.openMailbox();
  const shared = await client.openMailbox('work-1');
  // A renewed grant that allows less.
  open = [];
  const [{ code: ended }] = await Promise.all([
    once(shared, 'end').then(([error]) => error),
    client.register('t'),
  ]);
  t.is(ended, 'FORBIDDEN');
  t.false(own.isEnded);
});

test('invalid rules are refused', async (t) => {
  for (const [rules, name] of [
    [{}, 'mailboxes'],
    [[{}], 'mailboxes[0].mailbox'],
    [[{ mailbox: '' }], 'mailboxes.mailbox'],
    [[{ mailbox: '*' }, { mailbox: 'a' }], 'mailboxes.mailbox'],
    [[{ mailbox: '*', disk: true }], 'mailboxes.disk'],
    [[{ mailbox: '*', bytes: 1 }], 'mailboxes.bytes'],
    [[{ mailbox: '*', deadLetters: '>' }], 'mailboxes.deadLetters'],
  ]) {
    const error = await failure(startServer(t, { mailboxes: rules }));
    t.is(error.code, 'ERR_WSMB_OPTION', name);
    t.true(error.message.includes(`"${name}"`), error.message);
  }
});
