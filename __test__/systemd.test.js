'use strict';

// Brokers under a service manager that speaks the protocol of systemd (systemd/manager.py): inherited sockets,
// notifications and keep-alives.

const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const test = require('ava');
const { startNats } = require('../testkit/nats');
const { WSMsgBroker } = require('./support/start');

const MANAGER = path.join(__dirname, 'systemd', 'manager.py');
const BLOCK = path.join(__dirname, 'systemd', 'block.js');
const CLI = path.join(__dirname, '..', 'bin', 'wsbrokerserver.js');

const hasPython = process.platform === 'linux' && spawnSync('python3', ['--version']).status === 0;
const linux = hasPython ? test : test.skip;

function temporary(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Values in the order of their arrival: `push(value)`, and `next(predicate)`, which drops those before. */
class Arrivals {
  #values = [];
  #waiting;

  push(value) {
    this.#values.push(value);
    this.#waiting?.();
  }

  async next(isWanted = () => true) {
    for (;;) {
      while (this.#values.length > 0) {
        const value = this.#values.shift();
        if (isWanted(value)) return value;
      }
      await new Promise((resolve) => {
        this.#waiting = resolve;
      });
    }
  }
}

/** A service manager with these sockets and this service, which it does not start yet. */
async function manage(t, options) {
  const manager = spawn('python3', [MANAGER, JSON.stringify(options)]);
  manager.stdin.on('error', () => {});
  // It ends the service, and itself.
  t.teardown(() => manager.stdin.end());
  const [events, lines] = [new Arrivals(), new Arrivals()];
  readline.createInterface({ input: manager.stdout }).on('line', (line) => {
    events.push(JSON.parse(line));
  });
  readline.createInterface({ input: manager.stderr }).on('line', (line) => lines.push(line));
  const { addresses } = await events.next();
  return {
    ports: addresses.map(([, port]) => port),
    command: (word) => manager.stdin.write(`${word}\n`),
    line: (pattern) => lines.next((line) => pattern.test(line)),
    event: () => events.next(),
    /** The next notification with this member. Rejects if the service ends before. */
    async notified(name) {
      const isWanted = ({ notified = {}, exited }) => name in notified || exited !== undefined;
      const { notified, exited } = await events.next(isWanted);
      if (exited !== undefined) throw new Error(`exit with ${exited} instead of ${name}`);
      return notified;
    },
    exited: async () => (await events.next((event) => 'exited' in event)).exited,
  };
}

/** A broker of the command line as a service. */
function manageBroker(t, options, ...flags) {
  return manage(t, { command: [process.execPath, CLI, ...flags], ...options });
}

/** Resolves with whether a broker serves a client that begins to connect now. */
async function serves(t, target) {
  const client = new WSMsgBroker('a', target);
  t.teardown(() => client.close());
  await once(client, 'registered');
  await client.close();
}

/** Connects to a Unix socket and upgrades: the first line of the response. */
async function statusAt(file) {
  const socket = net.connect(file);
  socket.write(
    'GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  );
  const [data] = await once(socket, 'data');
  socket.destroy();
  return String(data).split('\r\n')[0];
}

const SWITCHING = 'HTTP/1.1 101 Switching Protocols';

for (const abstract of [false, true]) {
  const kind = abstract ? 'a name' : 'a file';
  linux(`systemd is notified of start and stop by ${kind}`, async (t) => {
    const flags = ['0', '--host', '127.0.0.1', '--drain', '7000', '--close-timeout', '1000'];
    const broker = await manageBroker(t, { abstract }, ...flags);
    broker.command('start');
    const { STATUS, ...ready } = await broker.notified('READY');
    t.deepEqual(ready, { READY: '1' });
    const [, port] = /^listening on 127\.0\.0\.1:(\d+)\/$/.exec(STATUS);
    await serves(t, `ws://127.0.0.1:${port}`);
    broker.command('SIGTERM');
    t.deepEqual((await broker.event()).notified, {
      STOPPING: '1',
      STATUS: 'draining',
      // The drain, the closing handshakes and five seconds.
      EXTEND_TIMEOUT_USEC: '13000000',
    });
    t.is(await broker.exited(), 0);
  });
}

linux('systemd is notified of a start when the required NATS is reached', async (t) => {
  const { url } = await startNats(t);
  const flags = ['0', '--host', '127.0.0.1', '--nats', url, '--nats-required', 'yes'];
  const broker = await manageBroker(t, {}, ...flags);
  broker.command('start');
  t.deepEqual(await broker.notified('STATUS'), { STATUS: 'connecting to NATS' });
  t.like((await broker.event()).notified, { READY: '1' });
});

linux('without the required NATS systemd is not notified of a start', async (t) => {
  const flags = ['0', '--host', '127.0.0.1', '--nats', '127.0.0.1:1', '--nats-required', 'yes'];
  const broker = await manageBroker(t, {}, ...flags);
  broker.command('start');
  t.true('started' in (await broker.event()));
  // A reload before the start must not look like a start.
  t.deepEqual((await broker.event()).notified, { STATUS: 'connecting to NATS' });
  broker.command('SIGHUP');
  const { STATUS, ...others } = (await broker.event()).notified;
  t.deepEqual(others, {});
  t.regex(STATUS, /^NATS cannot be reached within 5000 ms: /);
  t.is(await broker.exited(), 1);
});

linux('SIGHUP notifies systemd of a reload, but not while the broker drains', async (t) => {
  const flags = ['0', '--host', '127.0.0.1', '--drain', '60000', '--drain-delay', '500'];
  const broker = await manageBroker(t, {}, ...flags);
  broker.command('start');
  await broker.notified('READY');
  const before = process.hrtime.bigint() / 1000n;
  broker.command('SIGHUP');
  const { RELOADING, MONOTONIC_USEC } = (await broker.event()).notified;
  t.is(RELOADING, '1');
  const now = process.hrtime.bigint() / 1000n;
  t.true(before <= BigInt(MONOTONIC_USEC) && BigInt(MONOTONIC_USEC) <= now);
  t.deepEqual((await broker.event()).notified, { READY: '1' });
  broker.command('SIGTERM');
  await broker.notified('STOPPING');
  broker.command('SIGHUP');
  t.deepEqual(await broker.event(), { exited: 0 });
});

/** Events up to the next one that is not a keep-alive, and their number. */
async function countKeepAlives(broker, signal) {
  let count = 0;
  signal.then(() => broker.command('SIGTERM'));
  for (;;) {
    const { notified } = await broker.event();
    if (notified?.WATCHDOG !== '1') return { count, notified };
    count += 1;
  }
}

linux('keep-alives are sent while JavaScript is blocked', async (t) => {
  const command = [process.execPath, '--require', BLOCK, CLI, '0', '--host', '127.0.0.1'];
  const broker = await manage(t, { command, env: { WATCHDOG_USEC: '200000' } });
  broker.command('start');
  await broker.notified('READY');
  await broker.notified('WATCHDOG');
  broker.command('SIGPIPE');
  await broker.line(/^blocked$/);
  // SIGTERM is handled once JavaScript runs again: all keep-alives before it were sent meanwhile.
  const { count, notified } = await countKeepAlives(broker, Promise.resolve());
  t.is(notified.STOPPING, '1');
  // One in 100 ms for two seconds.
  t.true(count >= 10 && count <= 30, `${count}`);
  t.is(await broker.exited(), 0);
});

for (const [name, env] of [
  ['the watchdog is off', {}],
  ['the watchdog is for another process', { WATCHDOG_USEC: '20000', WATCHDOG_PID: '1' }],
]) {
  linux(`no keep-alive is sent if ${name}`, async (t) => {
    const broker = await manageBroker(t, { env }, '0', '--host', '127.0.0.1');
    broker.command('start');
    await broker.notified('READY');
    const pause = new Promise((resolve) => setTimeout(resolve, 300));
    const { count, notified } = await countKeepAlives(broker, pause);
    t.deepEqual([count, notified.STOPPING], [0, '1']);
  });
}

linux('a notification that cannot be sent is reported, and the broker goes on', async (t) => {
  const env = { NOTIFY_SOCKET: path.join(temporary(t), 'missing') };
  const broker = await manageBroker(t, { env }, '0', '--host', '127.0.0.1');
  broker.command('start');
  t.regex(
    await broker.line(/systemd/),
    /^wsbrokerserver: cannot notify systemd: notify ENOENT: \//,
  );
  broker.command('SIGTERM');
  t.is(await broker.exited(), 0);
});

linux('a TCP socket of systemd outlives the broker', async (t) => {
  const broker = await manageBroker(t, { sockets: [{ kind: 'tcp' }] }, 'systemd');
  const [port] = broker.ports;
  for (const signal of ['SIGTERM', 'SIGINT']) {
    broker.command('start');
    const { STATUS } = await broker.notified('READY');
    t.is(STATUS, `listening on 127.0.0.1:${port}/`);
    await serves(t, `ws://127.0.0.1:${port}`);
    broker.command(signal);
    t.is(await broker.exited(), 0);
    t.is(await broker.line(/listening/), `WSMsgBroker server listening on 127.0.0.1:${port}/`);
  }
  // No broker runs: a client that connects now is served by the next one.
  const served = serves(t, `ws://127.0.0.1:${port}`);
  broker.command('start');
  await served;
  broker.command('SIGTERM');
  await broker.exited();
});

linux('clients that connect between two brokers are not refused', async (t) => {
  const broker = await manageBroker(t, { sockets: [{ kind: 'tcp' }] }, 'systemd');
  const url = `ws://127.0.0.1:${broker.ports[0]}`;
  broker.command('start');
  await broker.notified('READY');
  const [near, far] = ['near', 'far'].map((id) => {
    const client = new WSMsgBroker(id, url, { protocol: 2, reconnect: { minDelay: 1 } });
    t.teardown(() => client.close());
    return client;
  });
  far.handle((message) => message);
  await Promise.all([near.connected(), far.connected()]);
  const refused = [];
  for (const client of [near, far]) client.on('reconnecting', (info) => refused.push(info));
  broker.command('SIGTERM');
  await broker.exited();
  broker.command('start');
  await broker.notified('READY');
  await Promise.all([near.connected(), far.connected()]);
  t.is((await near.request(1, 'far', { waitFor: 5000 })).message, 1);
  t.deepEqual(
    refused.map(({ error }) => error?.code).filter((code) => code === 'ECONNREFUSED'),
    [],
  );
});

for (const name of ['a file', 'a name']) {
  linux(`a Unix socket of systemd with ${name} outlives the broker`, async (t) => {
    const file = path.join(temporary(t), 'socket');
    const address = name === 'a file' ? file : `@wsmsgbroker-${process.pid}`;
    const sockets = [{ kind: 'unix', path: address }];
    const broker = await manageBroker(t, { sockets }, 'systemd', 'x');
    for (let round = 0; round < 2; round += 1) {
      broker.command('start');
      const { STATUS } = await broker.notified('READY');
      t.is(STATUS, `listening on unix:${address}:/x`);
      if (name === 'a file') t.is(await statusAt(file), 'HTTP/1.1 404 Not Found');
      broker.command('SIGTERM');
      t.is(await broker.exited(), 0);
      t.is(fs.existsSync(file), name === 'a file');
    }
  });
}

linux('one of several sockets of systemd is selected by its name', async (t) => {
  const file = path.join(temporary(t), 'socket');
  const sockets = [
    { kind: 'tcp', name: 'other' },
    { kind: 'unix', path: file, name: 'local' },
  ];
  // Started by its name, as in the unit: `env` replaces itself by `node`.
  const broker = await manage(t, { sockets, command: [CLI, 'systemd:local'] });
  broker.command('start');
  t.is((await broker.notified('READY')).STATUS, `listening on unix:${file}:/`);
  t.is(await statusAt(file), SWITCHING);
});

linux('the admin endpoint has a socket of systemd, which outlives the broker', async (t) => {
  const file = path.join(temporary(t), 'socket');
  const sockets = [
    { kind: 'tcp', name: 'broker' },
    { kind: 'unix', path: file, name: 'local' },
    { kind: 'tcp', name: 'admin' },
  ];
  const broker = await manageBroker(t, { sockets }, 'systemd:broker', '--admin', 'systemd:admin');
  const [port, adminPort] = broker.ports;
  for (let round = 0; round < 2; round += 1) {
    broker.command('start');
    const { STATUS } = await broker.notified('READY');
    t.is(STATUS, `listening on 127.0.0.1:${port}/`);
    await serves(t, `ws://127.0.0.1:${port}`);
    const { status } = await fetch(`http://127.0.0.1:${adminPort}/readyz`);
    t.is(status, 200);
    broker.command('SIGTERM');
    t.is(await broker.exited(), 0);
  }
  // No broker runs: a request that comes now is answered by the next one.
  const served = fetch(`http://127.0.0.1:${adminPort}/healthz`);
  broker.command('start');
  t.is((await served).status, 200);
});

linux('the admin endpoint has the Unix socket of systemd, and the broker a port', async (t) => {
  const file = path.join(temporary(t), 'socket');
  const options = { sockets: [{ kind: 'unix', path: file }] };
  const flags = ['0', '--host', '127.0.0.1', '--admin', 'systemd'];
  const broker = await manageBroker(t, options, ...flags);
  broker.command('start');
  await broker.notified('READY');
  const request = http.get({ socketPath: file, path: '/metrics' });
  const [response] = await once(request, 'response');
  response.resume();
  t.is(response.statusCode, 200);
  broker.command('SIGTERM');
  t.is(await broker.exited(), 0);
  t.true(fs.existsSync(file));
});

/** Two sockets of systemd with these names. */
const two = (...names) => ({ sockets: names.map((name) => ({ kind: 'tcp', name })) });

for (const [what, options, port, pattern] of [
  ['no sockets', {}, 'systemd', /^systemd has passed no socket \(LISTEN_FDS\): start the socket/],
  [
    'the sockets of another process',
    { ...two('a'), pid: 1 },
    'systemd',
    /to process 1 \(LISTEN_PID\), and this is process \d+: ExecStart must start node itself, not npx/,
  ],
  ['several sockets', two('a', 'b'), 'systemd', /the sockets "a", "b", expected one socket \(sel/],
  ['no socket of a name', two('a', 'b'), 'systemd:c', /the sockets "a", "b", expected one "c"$/],
  ['several sockets of a name', two('a', 'a'), 'systemd:a', /sockets "a", "a", expected one "a"$/],
  [
    'a datagram socket',
    { sockets: [{ kind: 'udp' }] },
    'systemd',
    /^option "fd" is another kind of socket, expected a listening TCP or Unix socket$/,
  ],
  [
    'a datagram socket for --admin',
    { sockets: [{ kind: 'udp' }] },
    ['0', '--admin', 'systemd'],
    /^option "admin\.fd" is another kind of socket, expected a listening TCP or Unix socket$/,
  ],
  [
    'no socket of a name for --admin',
    two('a', 'b'),
    ['systemd:a', '--admin', 'systemd:c'],
    /the sockets "a", "b", expected one "c"$/,
  ],
  [
    'the same socket for both',
    two('a', 'b'),
    ['systemd:a', '--admin', 'systemd:a'],
    /^options "fd" and "admin\.fd" are both 3, expected two sockets$/,
  ],
  [
    'an address beside the socket for --admin',
    two('a', 'b'),
    ['systemd:a', '--admin', 'systemd:b', '--admin-host', '127.0.0.1'],
    /^option "admin\.host" has no effect with "admin\.fd": the inherited socket has its own address$/,
  ],
  [
    'a public socket without a token for --admin',
    { sockets: [{ kind: 'tcp', host: '0.0.0.0' }] },
    ['0', '--admin', 'systemd'],
    /^option "admin\.token" is required: the inherited socket has no loopback address$/,
  ],
]) {
  linux(`the command reports ${what} of systemd`, async (t) => {
    const broker = await manageBroker(t, options, ...[port].flat());
    broker.command('start');
    const [, message] = /^wsbrokerserver: (.*)$/.exec(await broker.line(/./));
    t.regex(message, pattern);
    t.is(await broker.exited(), 2);
  });
}

linux('flags of an address are refused with a socket of systemd', async (t) => {
  const options = { sockets: [{ kind: 'tcp' }] };
  for (const [flag, value] of [
    ['host', '127.0.0.1'],
    ['reusePort', 'yes'],
    ['socketMode', '660'],
  ]) {
    const kebab = flag.replace('P', '-p').replace('M', '-m');
    const broker = await manageBroker(t, options, 'systemd', `--${kebab}`, value);
    broker.command('start');
    const expected = `option "${flag}" has no effect with "fd": the inherited socket has its own address`;
    t.is(await broker.line(/./), `wsbrokerserver: ${expected}`);
    t.is(await broker.exited(), 2);
  }
});

/** Runs a program whose descriptor 3 is a socket. Resolves with the JSON that it prints. */
async function withSocket(t, kind, program) {
  const file = path.join(temporary(t), 'program.js');
  const library = JSON.stringify(require.resolve('..'));
  fs.writeFileSync(
    file,
    `'use strict';
    const fs = require('node:fs');
    const { once } = require('node:events');
    const WSMsgBroker = require(${library});
    const { Server } = WSMsgBroker;
    const attempt = (options) => {
      try {
        new Server(options);
      } catch ({ name, code, message }) {
        return [name, code, message];
      }
    };
    (async () => { ${program} })().then((result) => console.log(JSON.stringify(result)));`,
  );
  const socket = { kind, path: kind === 'unix' ? path.join(temporary(t), 'socket') : undefined };
  const manager = await manage(t, { command: [process.execPath, file], sockets: [socket] });
  manager.command('start');
  const result = JSON.parse(await manager.line(/./));
  t.is(await manager.exited(), 0);
  return { result, socket, port: manager.ports[0] };
}

linux('a server listens on a TCP descriptor, and so does the next one', async (t) => {
  const { result, port } = await withSocket(
    t,
    'tcp',
    `const list = () => fs.readdirSync('/proc/self/fd').length;
    const use = async () => {
      const server = new Server({ fd: 3, path: '/x' });
      await server.ready;
      const { port } = server.address();
      const client = new WSMsgBroker('a', 'ws://127.0.0.1:' + port + '/x');
      await once(client, 'registered');
      await client.close();
      const address = server.address();
      await server.close();
      return [address, server.address()];
    };
    const addresses = await use();
    // The descriptors of threads and event loops exist from now on.
    await new Promise((resolve) => setTimeout(resolve, 100));
    const before = list();
    for (let n = 0; n < 10; n += 1) await use();
    let after;
    for (let n = 0; n < 100 && (after = list()) > before; n += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return { addresses, more: after - before };`,
  );
  t.deepEqual(result, {
    addresses: [{ address: '127.0.0.1', family: 'IPv4', port }, null],
    more: 0,
  });
});

linux('the copy of a Unix descriptor is close-on-exec, and its file stays', async (t) => {
  const { result, socket } = await withSocket(
    t,
    'unix',
    `const { execFileSync } = require('node:child_process');
    const server = new Server({ fd: 3 });
    await server.ready;
    const flags = fs.readdirSync('/proc/self/fdinfo').flatMap((fd) => {
      try {
        const isSocket = fs.readlinkSync('/proc/self/fd/' + fd) === fs.readlinkSync('/proc/self/fd/3');
        const [, flags] = /flags:\\s+(\\d+)/.exec(fs.readFileSync('/proc/self/fdinfo/' + fd, 'utf8'));
        return isSocket && fd !== '3' ? [Number.parseInt(flags, 8)] : [];
      } catch {
        return [];
      }
    });
    const address = server.address();
    await server.close();
    return { address, flags: flags.map((each) => [each & 0o4000, each & 0o2000000]) };`,
  );
  t.is(result.address, socket.path);
  t.true(fs.existsSync(socket.path));
  // One copy, with O_NONBLOCK and O_CLOEXEC.
  t.deepEqual(result.flags, [[0o4000, 0o2000000]]);
});

linux('a descriptor that is no listening socket is refused', async (t) => {
  const { result } = await withSocket(
    t,
    'unbound',
    `const file = fs.openSync('/dev/null');
    return [3, file, 999].map((fd) => attempt({ fd }));`,
  );
  const expected = 'expected a listening TCP or Unix socket';
  t.deepEqual(result, [
    ['RangeError', 'ERR_WSMB_OPTION', `option "fd" does not listen, ${expected}`],
    ['RangeError', 'ERR_WSMB_OPTION', `option "fd" is not a socket, ${expected}`],
    ['RangeError', 'ERR_WSMB_OPTION', 'option "fd" is 999, expected an open descriptor'],
  ]);
});

test('options that need an address are refused with a descriptor', (t) => {
  for (const [options, message] of [
    [{ port: 0 }, 'options "port" and "fd" exclude each other, expected one of them'],
    [{ noServer: true }, 'options "fd" and "noServer" exclude each other, expected one of them'],
    [
      { host: '127.0.0.1' },
      'option "host" has no effect with "fd": the inherited socket has its own address',
    ],
    [
      { reusePort: true },
      'option "reusePort" has no effect with "fd": the inherited socket has its own address',
    ],
    [
      { socketMode: '660' },
      'option "socketMode" has no effect with "fd": the inherited socket has its own address',
    ],
    [
      { allowUpgrade: () => true },
      'option "allowUpgrade" has no effect with "fd": it is for "server"',
    ],
    [{ fd: '3' }, `option "fd" is '3', expected the number of a descriptor`],
    [{ admin: { fd: '4' } }, `option "admin.fd" is '4', expected the number of a descriptor`],
    [{ admin: {} }, 'option "admin" needs option "admin.port" or "admin.fd"'],
    [
      { admin: { port: 0, fd: 4 } },
      'options "admin.port" and "admin.fd" exclude each other, expected one of them',
    ],
    [{ fd: -1 }, 'option "fd" is -1, expected the number of a descriptor'],
  ]) {
    t.throws(() => new WSMsgBroker.Server({ fd: 3, ...options }), {
      code: 'ERR_WSMB_OPTION',
      message,
    });
  }
});

const hasAnalyze = spawnSync('systemd-analyze', ['--version']).status === 0;

(hasAnalyze ? test : test.skip)('the units of the guide are valid', (t) => {
  const guide = fs.readFileSync(path.join(__dirname, '..', 'docs/guides/deployment.md'), 'utf8');
  const units = [...guide.matchAll(/^```ini\n# (\S+)\n([\s\S]*?)^```$/gm)];
  t.deepEqual(
    units.map(([, name]) => path.basename(name)),
    ['wsmsgbroker.service', 'credentials.conf', 'wsmsgbroker.socket'],
  );
  const folder = temporary(t);
  const command = path.join(folder, 'wsmsgbroker');
  fs.writeFileSync(command, '', { mode: 0o755 });
  const files = units.map(([, name, text]) => {
    // The drop-in is in a folder of its own.
    const file = path.join(folder, path.relative('/etc/systemd/system', name));
    fs.mkdirSync(path.dirname(file), { recursive: true });
    // The package is not installed here.
    fs.writeFileSync(file, text.replaceAll('/usr/bin/wsmsgbroker', command));
    return file;
  });
  const verify = () => {
    const named = files.filter((file) => /\.(?:service|socket)$/.test(file));
    const { stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...named], {
      encoding: 'utf8',
    });
    return stderr.split('\n').filter((line) => line.includes('wsmsgbroker'));
  };
  t.deepEqual(verify(), []);
  // Without the credentials, too.
  fs.rmSync(files.find((file) => file.endsWith('.conf')));
  t.deepEqual(verify(), []);
});
