'use strict';

// Tests of the cluster tests' own tools: NATS servers that start, end, pause and restart on request, and a
// NATS client.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const { startNats, startNatsCluster } = require('../testkit/nats');
const { natsTalk } = require('./support/natstalk');
const { createNkey } = require('./support/nkey');

/** The old version comes from Debian, for Linux only. */
const versions = process.platform === 'linux' ? ['new', 'old'] : ['new'];
/** Windows has no signals. */
const posix = process.platform === 'win32' ? test.skip : test;

/** Starts a server and prints its address. */
const PROGRAM = `
const { startNats } = require(process.argv[1]);
startNats({ teardown() {} }, { version: process.argv[2] }).then(({ port, pid }) => {
  console.log(JSON.stringify({ port, pid }));
});`;

for (const version of versions) {
  test(`the ${version} NATS server restarts on its port after any end`, async (t) => {
    const server = await startNats(t, { version, maxPayload: 2048 });
    const { port, pid } = server;
    const before = await natsTalk(t, server);
    t.is(before.info.server_name, server.name);
    t.is(before.info.max_payload, 2048);
    await server.kill();
    await before.closed;
    t.is(server.pid, undefined);
    await t.throwsAsync(natsTalk(t, server), { code: 'ECONNREFUSED' });

    await server.restart();
    t.not(server.pid, pid);
    t.is(server.port, port);
    const after = await natsTalk(t, server);
    await server.restart();
    await after.closed;
    const last = await natsTalk(t, server);
    await server.stop();
    await last.closed;
  });

  posix(`the ${version} NATS server does not respond while it is paused`, async (t) => {
    const server = await startNats(t, { version });
    const talk = await natsTalk(t, server);
    await talk.sub('wsmb.>');
    await server.pause();
    talk.pub('wsmb.a', 'later');
    let isRead = false;
    const read = talk.flush().then(() => {
      isRead = true;
    });
    // Longer than a response takes without the pause.
    await new Promise((resolve) => setTimeout(resolve, 100));
    t.false(isRead);
    t.deepEqual(talk.messages, []);
    server.resume();
    await read;
    t.is((await talk.next()).text, 'later');
    // The server is paused at the end, too. The next test must not be affected.
    await server.pause();
  });

  test(`a cluster of three ${version} NATS servers forwards messages between any two`, async (t) => {
    const cluster = await startNatsCluster(t, 3, { version });
    const [first, second, third] = cluster;
    const spy = await natsTalk(t, third);
    await spy.sub('wsmb.>');
    const talk = await natsTalk(t, first);
    await first.knows('wsmb.>', third);
    const headers = { 'Nats-Msg': 'a: b' };
    talk.pub('wsmb.a', 'of three', { reply: 'wsmb.b', headers });
    const { subject, reply, text, headers: got } = await spy.next();
    t.deepEqual([subject, reply, text, got], ['wsmb.a', 'wsmb.b', 'of three', headers]);

    await second.kill();
    talk.pub('wsmb.a', 'of two');
    t.is((await spy.next()).text, 'of two');

    await Promise.all(cluster.slice(0, 2).map((server) => server.restart()));
    await first.kill();
    const other = await natsTalk(t, second);
    await second.knows('wsmb.>', third);
    other.pub('wsmb.a', 'of others');
    t.is((await spy.next()).text, 'of others');
    t.deepEqual(
      cluster.map((server) => server.isRunning),
      [false, true, true],
    );
  });

  test(`the ${version} NATS server accepts the right name, token, key or certificate`, async (t) => {
    const nkey = createNkey();
    const { ca, issue } = authority();
    const ways = [
      [{ user: 'u', pass: 'p' }],
      [{ token: 's3cret' }],
      [{ nkey: nkey.publicKey }, { nkey }],
      [{ tls: issue() }, { tls: { ca } }],
      [{ tls: { ca, ...issue() } }, { tls: { ca, ...issue() } }],
    ];
    for (const [options, right = options] of ways) {
      const server = await startNats(t, { version, ...options });
      const talk = await natsTalk(t, server, right);
      await talk.sub('wsmb.>');
      talk.pub('wsmb.a', 'in');
      t.is((await talk.next()).text, 'in');
      if (options.tls) {
        await t.throwsAsync(natsTalk(t, server));
      } else {
        const wrong = natsTalk(t, server, { user: 'u', pass: 'wrong' });
        await t.throwsAsync(wrong, { code: 'ERR_TALK_REFUSED' });
      }
    }
  });

  posix(`the ${version} NATS server ends with its parent process, however that ends`, async (t) => {
    const support = path.join(__dirname, '..', 'testkit', 'nats.js');
    const program = spawn(process.execPath, ['-e', PROGRAM, support, version], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.teardown(() => program.kill('SIGKILL'));
    const [said] = await once(program.stdout, 'data');
    const { port, pid } = JSON.parse(said);
    const talk = await natsTalk(t, { port });
    process.kill(pid, 'SIGSTOP');
    program.kill('SIGKILL');
    await t.notThrowsAsync(talk.closed);
  });
}
