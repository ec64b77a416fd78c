'use strict';

// Settings of a broker from a file and from the environment: what takes precedence, and where errors are.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const readline = require('node:readline');
const test = require('ava');
const { parseJson } = require('../lib/cli/jsonText');
const { withSettings } = require('../lib/cli/settings');
const { WSMsgBroker } = require('./support/start');

const CLI = path.join(__dirname, '..', 'bin', 'wsmsgbroker.js');

/** The path of a new file with this text. */
function file(t, text, name = 'broker.json') {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  const created = path.join(folder, name);
  fs.writeFileSync(created, typeof text === 'string' ? text : JSON.stringify(text, null, 2));
  return created;
}

/** Exit code and output of `check`. */
function check(args, env = {}) {
  const all = [CLI, 'check', ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, all, {
    env: { PATH: process.env.PATH, ...env },
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

test('settings become flags: those of the command line first, then the environment, then the file', (t) => {
  const config = file(t, {
    port: 1,
    path: 'x',
    maxPayload: 1,
    maxDest: 2,
    maxFragments: 3,
    proxyProtocol: true,
    trustProxy: ['loopback', '10.0.0.0/8'],
    allowedOrigins: ['a', 'b'],
    jwt: { issuer: 'c' },
    admin: { port: 9 },
    nats: { servers: ['d', 'e'] },
    drainDelay: 4,
  });
  const env = {
    WSMB_MAX_DEST: '20',
    WSMB_MAX_FRAGMENTS: '30',
    WSMB_JWT_AUDIENCE: 'f,g',
    WSMB_ELSE: 'h',
  };
  const { args } = withSettings(['--config', config, '--max-fragments', '300', '80'], env);
  const own = ['--max-fragments', '300', '80', 'x'];
  t.deepEqual(args.slice(-4), own);
  t.deepEqual(args.slice(0, -4).sort(), [
    '--admin=9',
    '--allowed-origins=a',
    '--allowed-origins=b',
    '--drain-delay=4',
    '--jwt-audience=f',
    '--jwt-audience=g',
    '--jwt-issuer=c',
    '--max-dest=20',
    '--max-payload=1',
    '--nats=d',
    '--nats=e',
    '--proxy-protocol=yes',
    '--trust-proxy=loopback,10.0.0.0/8',
  ]);
  t.deepEqual(withSettings([], { WSMB_PORT: '7', WSMB_PATH: 'y' }).args, ['7', 'y']);
  t.deepEqual(withSettings([], { WSMB_PATH: 'y' }).args, []);
  t.deepEqual(withSettings(['1', 'z'], { WSMB_PORT: '7', WSMB_PATH: 'y' }).args, ['1', 'z']);
});

test('check accepts what serve would, and starts nothing', (t) => {
  const config = file(t, { port: 9042, maxPayload: 1024, rateLimit: { messages: 5 } });
  const valid = { status: 0, stdout: 'the settings are valid\n', stderr: '' };
  t.deepEqual(check(['--config', config]), valid);
  t.deepEqual(check(['9042', 'path', '--drain', '5']), valid);
  t.deepEqual(check([], { WSMB_PORT: '9042' }), valid);
});

test('check prints the place of an error', (t) => {
  const cases = [
    [
      '{\n  "port": 9042,\n  "maxPaylod": 5\n}',
      ':3:3: unknown setting "maxPaylod", did you mean "maxPayload"?',
    ],
    [
      '{\n  "port": 9042,\n  "maxPayload": 0\n}',
      ':3:3: option "maxPayload" is 0, expected from 1 to 535822336',
    ],
    [
      '{ "port": 9042, "jwt": { "secret": "/does/not/exist" } }',
      ':1:26: --jwt-secret is no file that can be read (ENOENT)',
    ],
    ['{ "port": 9042, "jwt": {\n"leeway": -1 } }', ":2:1: --jwt-leeway is '-1', expected a number"],
    [
      '{ "port": 9042, "nats": { "servers": "" } }',
      ':1:27: option "nats.servers" is an array, expected one or more, none of them empty',
    ],
    ['{ "port": 9042, "health": {} }', ':1:17: "health" must be a string, a number, true or false'],
    ['{ "port": 9042 "path": "x" }', ':1:16: expected a comma or a closing brace'],
    ['{ "port": 9042,\n "port": 1 }', ':2:2: "port" is there twice'],
    ["{ 'port': 9042 }", ':1:3: unexpected character'],
    ['{ "port": 9042', ':1:15: expected a comma or a closing brace, found the end of the text'],
    ['[]', ': expected an object'],
    ['{ "port": 9042, "jwt": {} }', ':1:17: "jwt" is empty'],
    [
      '{ "port": 9042, "drainDelay": 3000000000 }',
      ':1:17: option "delay" is 3000000000, expected 0 to 2147483647 ms',
    ],
    ['{ "port": 9042, "id": "a\\q" }', ':1:23: invalid string'],
  ];
  for (const [text, message] of cases) {
    const config = file(t, text);
    const { status, stdout, stderr } = check(['--config', config]);
    t.is(stdout, '');
    t.is(stderr, `wsmsgbroker: ${config}${message}\n`);
    t.is(status, 1, text);
  }
  const environment = check(['1'], { WSMB_MAX_PAYLOAD: 'many' });
  t.is(
    environment.stderr,
    "wsmsgbroker: WSMB_MAX_PAYLOAD: --max-payload is 'many', expected a number\n",
  );
  // An error of a flag does not have the place of the setting that it overrides.
  const config = file(t, { port: 1, maxPayload: 5 });
  const overridden = check(['--config', config, '--max-payload', 'x']);
  t.is(overridden.stderr, "wsmsgbroker: --max-payload is 'x', expected a number\n");
  const twice = check(['--config', config, '--config', config]);
  t.is(twice.stderr, 'wsmsgbroker: --config is there twice\n');
  // A secret in place of its file is not printed.
  const secret = check(['1'], { WSMB_JWT_SECRET: 'sesame-sesame' });
  t.is(secret.status, 1);
  t.notRegex(secret.stderr, /sesame/);
  const tls = check(['1', '--tls-cert', CLI, '--tls-key', CLI]);
  t.is(tls.status, 1);
  t.regex(tls.stderr, /^wsmsgbroker: .*tls\.cert/);
});

test('a file without a port is named, unless there is a port elsewhere', (t) => {
  const config = file(t, { maxPayload: 5 });
  const message = `wsmsgbroker: ${config}: "port" is missing, as are the argument <port> and WSMB_PORT`;
  t.deepEqual(check(['--config', config]), { status: 1, stdout: '', stderr: `${message}\n` });
  const serve = spawnSync(process.execPath, [CLI, 'serve', '--config', config], {
    encoding: 'utf8',
  });
  t.deepEqual([serve.status, serve.stderr], [2, `${message}; see --help\n`]);
  t.is(check(['1', '--config', config]).status, 0);
  t.is(check(['--config', config], { WSMB_PORT: '1' }).status, 0);
  for (const flag of ['--help', '-h', '--version', '-v']) {
    t.notThrows(() => withSettings(['--config', config, flag], {}));
  }
});

test('check refuses a variable with a name similar to that of a setting', (t) => {
  t.deepEqual(check(['1'], { WSMB_MAX_PAYLOD: '5' }), {
    status: 1,
    stdout: '',
    stderr: 'wsmsgbroker: unknown variable WSMB_MAX_PAYLOD, did you mean WSMB_MAX_PAYLOAD?\n',
  });
  t.is(check(['1'], { WSMB_TOKEN: 'x', WSMB_ELSE: 'x', WSMB_REPEAT: '5' }).status, 0);
});

test('serve uses the settings of its file', async (t) => {
  const config = file(t, { port: 0, host: '127.0.0.1', path: 'from-file', maxPayload: 100 });
  const child = spawn(process.execPath, [CLI, 'serve', '--config', config]);
  t.teardown(() => child.kill('SIGKILL'));
  const [line] = await once(readline.createInterface({ input: child.stdout }), 'line');
  const [, port] = /^WSMsgBroker server listening on 127\.0\.0\.1:(\d+)\/from-file$/.exec(line);
  const client = new WSMsgBroker('a', '127.0.0.1', port, 'from-file');
  await client.connected();
  client.send('x'.repeat(200), 'a');
  t.is((await once(client, 'close'))[0], 1009);
  child.kill('SIGINT');
  t.deepEqual(await once(child, 'exit'), [0, null]);
});

test('JSON is parsed as by JSON.parse', (t) => {
  const texts = [
    'null',
    '"\u007f\u009f"',
    '"a\\u12"',
    ' [ ] ',
    '{}',
    '{"a":{"b":[1,-2.5e3,"x\\u0041\\n",true,false,null]}}',
    '"\u2028"',
    '{"__proto__":1}',
    '',
    '{',
    '[1,]',
    '{"a":1,}',
    '[1 2]',
    '01',
    '1.',
    '"\n"',
    '"\\x"',
    'nul',
    '{"a" 1}',
    '{1:2}',
    '[]]',
    "'a'",
    '\u00a01',
  ];
  for (const text of texts) {
    let expected;
    try {
      expected = { value: JSON.parse(text) };
    } catch {
      expected = { message: true };
    }
    let found;
    try {
      found = { value: parseJson(text).value };
    } catch (error) {
      found = { message: /^\d+:\d+: /.test(error.message) };
    }
    t.deepEqual(found, expected, text);
  }
});
