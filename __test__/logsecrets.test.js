'use strict';

// No log has a secret: a token, a message, a query or a header.

const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { createHmac } = require('node:crypto');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const test = require('ava');
const { CLI } = require('./support/command');
const { SECRET, collector, connect, refusedWith } = require('./support/logs');
const { startServer } = require('./support/start');

/** A token of the option `jwt`, signed with `key`. */
function token(key, claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', key).update(text).digest('base64url')}`;
}

/** Sends secrets in all places where a client can put one. Returns them. */
async function leak(t, port, given) {
  const url = `ws://127.0.0.1:${port}/?query=${SECRET}-query`;
  const headers = { Cookie: `${SECRET}-cookie`, Authorization: `Bearer ${SECRET}-header` };
  headers['User-Agent'] = `${SECRET}-agent`;
  await refusedWith(`ws://127.0.0.1:${port}/${SECRET}-path?${SECRET}`, headers);
  for (const used of [`${SECRET}-token`, undefined, given]) {
    const socket = await connect(t, url, { headers });
    const ended = once(socket, 'close');
    socket.send(JSON.stringify({ action: 'register', id: 'a', token: used }));
    if (used === given) {
      for (const frame of [
        `{"action":"send","dest":"none","message":"${SECRET}-payload"}`,
        `{"action":"send","dest":5,"message":"${SECRET}-payload"}`,
        `{"action":"send","dest":"none","message":"${SECRET}-payload","ack":"${SECRET}-ack"}`,
        `{"action":"${SECRET}-action"}`,
        `${SECRET}-text`,
        `{"${SECRET}`,
        Buffer.from(`${SECRET}-binary`),
      ]) {
        socket.send(frame);
      }
      socket.close(4000, `${SECRET}-reason`);
    }
    await ended;
  }
  await new Promise((resolve) => {
    http.get({ port, host: '127.0.0.1', path: `/?${SECRET}`, headers }, (response) => {
      response.resume().on('end', resolve);
    });
  });
}

test('no line of a logger or of a channel has a token, a payload, a query or a header', async (t) => {
  const { logger, lines, line } = collector();
  const server = await startServer(t, {
    logger,
    authenticate({ token: found }) {
      if (found === undefined) throw new Error(`${SECRET}-thrown`);
      const refusal = Object.assign(new Error(`${SECRET} is wrong`), {
        code: 'ERR_WSMB_FORBIDDEN',
      });
      if (found !== `${SECRET}-good`) throw refusal;
      return { principal: `${SECRET}-principal` };
    },
  });
  server.on('error', () => {});
  await leak(t, server.address().port, `${SECRET}-good`);
  await line('disconnected', ({ code }) => code === 4000);
  await server.close();
  const events = new Set(lines.map(([, { event }]) => event));
  for (const event of [
    'refused',
    'denied',
    'invalid_action',
    'unknown_id',
    'failure',
    'registered',
  ])
    t.true(events.has(event), event);
  t.notRegex(JSON.stringify(lines), new RegExp(SECRET));
});

for (const format of ['json', 'text']) {
  test(`no line of the command has one either: ${format}, and NODE_DEBUG`, async (t) => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
    t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
    const file = path.join(folder, 'secret');
    const key = `${SECRET}-${'k'.repeat(32)}`;
    fs.writeFileSync(file, key);
    const { NODE_DEBUG } = process.env;
    const flags = ['--log', format, '--log-level', 'debug', '--jwt-secret', file];
    const args = [CLI, '0', '--host', '127.0.0.1', ...flags];
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_DEBUG: NODE_DEBUG ?? 'wsmsgbroker' },
    });
    t.teardown(() => child.kill('SIGKILL'));
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        output += data;
      });
    }
    let port;
    while (port === undefined) {
      port = /port[":=]+(\d+)/.exec(output)?.[1];
      await sleep(20);
    }
    const exp = Math.floor(Date.now() / 1000) + 3600;
    const given = token(key, { sub: 'a', exp, note: `${SECRET}-claim` });
    await leak(t, port, given);
    child.kill('SIGTERM');
    await once(child, 'close');
    for (const event of [
      'refused',
      'denied',
      'invalid_action',
      'unknown_id',
      'registered',
      'closed',
    ])
      t.true(output.includes(`${event}`), output);
    t.true(output.includes('WSMSGBROKER '));
    t.notRegex(output, new RegExp(SECRET));
    // Nor a part of the token.
    for (const part of given.split('.')) t.false(output.includes(part), part);
  });
}
