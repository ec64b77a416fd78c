'use strict';

// Options in documents, types and on the command line must have the defaults of the code: those that the
// addon returns, and those of the clients in JavaScript. The documents must also list every error code.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const test = require('ava');
const { NativeServer, NativeClient } = require('../lib/native');
const { serverOptions, clientOptions } = require('../lib/options');
const { kSession } = require('../lib/client/methods');
const WSMsgBroker = require('..');
const Browser = require('../lib/browser');

const root = path.join(__dirname, '..');
const read = (file) => fs.readFileSync(path.join(root, file), 'utf8');

const UNITS = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };
/** Words for no default, and for the number 0. */
const NONE = ['none', 'no limit', 'any', 'anybody', 'anybody may'];
/** Defaults that depend on the machine, each with a check of the actual value. */
const RULES = {
  threads: ['one per core, at most 4', (n) => n >= 1 && n <= Math.min(os.cpus().length, 4)],
  // Systems count pages and memory of the kernel differently.
  maxMemory: ['a quarter of the memory', (n) => Math.abs(n / memory() - 1) < 0.01],
  maxConnections: ['80 % of the file limit', (n) => n === Math.floor(files() / 5) * 4],
};
/** The members of an interface of counters in index.d.ts. */
const counters = (name) =>
  [
    ...new RegExp(`interface ${name} \\{([\\s\\S]*?)\\n {2}\\}`)
      .exec(read('index.d.ts'))[1]
      .matchAll(/^ {4}(\w+): (?:number|boolean)/gm),
  ].map(([, name]) => name);
/** The members of the result of `stats()`. */
const COUNTERS = [
  ...counters('Stats'),
  ...counters('ClusterStats').map((name) => `cluster.${name}`),
];
/** Arguments of the constructor rather than options. */
const ARGUMENTS = ['port', 'path', 'admin.port'];
/** Options that only a program can set. */
const NO_FLAGS = [
  'id',
  'fd',
  'admin.fd',
  'server',
  'noServer',
  'allowUpgrade',
  'authenticate',
  'authenticateTimeout',
  'authorize',
  'logger',
];
/** Members of `nats` without a flag: those that the address can contain, and rare ones. */
const NO_NATS_FLAGS = ['nats.user', 'nats.pass', 'nats.timeout'];

function memory() {
  // The value for an unlimited group differs between systems.
  const group = process.constrainedMemory?.() || Number.POSITIVE_INFINITY;
  return Math.max(Math.floor(Math.min(os.totalmem(), group) / 4), 64 * UNITS.MiB);
}

function files() {
  if (process.platform === 'win32') {
    return 16_384;
  }
  // Node.js has raised its own limit, and child processes inherit it.
  const limit = execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).trim();
  return limit === 'unlimited' ? 2 ** 20 : Math.min(Number(limit), 2 ** 20);
}

/** The options in `known` with their types, members of a group as `group.member`. */
function flatten(known, prefix = '') {
  return Object.entries(known).flatMap(([name, type]) =>
    typeof type === 'object' && !Array.isArray(type)
      ? flatten(type, `${prefix}${name}.`)
      : [[prefix + name, type]],
  );
}

/** Pairs of name and default for all values of the code. */
function flattenValues(values, prefix = '') {
  return Object.entries(values).flatMap(([name, value]) =>
    typeof value === 'object' && !Array.isArray(value)
      ? flattenValues(value, `${prefix}${name}.`)
      : [[prefix + name, value]],
  );
}

const isList = (value) => Array.isArray(value);

function defaultsOf(native) {
  // An empty list is described in words.
  const values = Object.fromEntries(flattenValues(native).filter(([, value]) => !isList(value)));
  if ('jwt.pattern' in values) {
    values['jwt.subject'] = values['jwt.pattern'] ? 'pattern' : 'exact';
  }
  return values;
}

/** The options of a client with their defaults. The client is closed before it connects. */
function sessionOptions(Client, options) {
  const client = new Client('a', 'ws://127.0.0.1:9', options);
  client[kSession].close();
  return client[kSession].settings;
}

/** Defaults of the JavaScript client, which the addon does not know. */
function ownDefaults() {
  const [, members] = /^const RECONNECT = \{([^}]*)\};$/m.exec(read('lib/client/reconnection.js'));
  const reconnect = new Function(`return {${members}};`)();
  return { ...sessionOptions(WSMsgBroker), ...defaultsOf({ reconnect }) };
}

/** Defaults of the members of `nats`. Without NATS the addon does not return them. */
function natsDefaults() {
  const [, body] = /pub fn new\([\s\S]*?Self \{([\s\S]*?)\n {8}\}/.exec(
    read('src/options/nats.rs'),
  );
  const [, namespace] = /namespace: "(\w+)"\.into\(\)/.exec(body);
  const [, required] = /required: (\w+)/.exec(body);
  const [, seconds] = /timeout: Duration::from_secs\((\d+)\)/.exec(body);
  const nats = { namespace, required: required === 'true', timeout: Number(seconds) * 1000 };
  return defaultsOf({ nats });
}

const CODE = {
  server: {
    ...defaultsOf(NativeServer.defaults(true)),
    ...defaultsOf(NativeServer.defaults(false)),
    ...natsDefaults(),
  },
  /** Defaults of a server with authentication. */
  authenticated: { ...defaultsOf(NativeServer.defaults(true)), ...natsDefaults() },
  client: { ...defaultsOf(NativeClient.defaults()), ...ownDefaults() },
};
/** Defaults of the browser client. */
const BROWSER = sessionOptions(Browser, {
  WebSocket: class {
    close() {}
  },
});
const SERVER = flatten(serverOptions).filter(([name]) => !ARGUMENTS.includes(name));
const CLIENT = flatten(clientOptions);

/** The value of a text such as `100 MiB + 64 KiB`. Other texts stand for themselves. */
function value(text) {
  const bare = text.replace(/[`']/g, '').trim();
  if (NONE.includes(bare)) {
    return 0;
  }
  if (['true', 'yes', 'false', 'no'].includes(bare)) {
    return ['true', 'yes'].includes(bare);
  }
  const numbers = bare
    .split(' + ')
    .map((part) => /^(\d[\d,]*)(?: (KiB|MiB|GiB))?$/.exec(part))
    .map((match) => match && Number(match[1].replaceAll(',', '')) * (UNITS[match[2]] ?? 1));
  return numbers.includes(null) ? bare : numbers.reduce((sum, number) => sum + number);
}

/** Both defaults in a text such as `no limit; 100 with authentication`. */
function values(text) {
  const [plain, ...others] = text.split(';').map((part) => part.trim());
  const condition = / with (authentication|tokens)$/;
  const authenticated = others.find((part) => condition.test(part))?.replace(condition, '');
  return [value(plain), value(authenticated ?? plain)];
}

/**
 * Compares the documented options of `who` with the code. `found`: text by name. `prefix`: the group of the
 * options.
 */
function compare(t, who, options, found, place, prefix = '') {
  for (const [name, type] of options) {
    const expected = [
      CODE[who][prefix + name],
      who === 'client' ? CODE.client[prefix + name] : CODE.authenticated[name],
    ];
    t.true(name in found, `${place} lacks ${name}`);
    if (!(name in found) || (type !== 'number' && expected[0] === undefined)) {
      continue;
    }
    const told = RULES[name] ? [RULES[name][0], RULES[name][0]] : expected.map((each) => each ?? 0);
    t.deepEqual(values(found[name]), told, `${place}, ${name}: "${found[name]}"`);
  }
}

/** The tables of a document with columns for option and default, each as text by name. */
function tables(file) {
  const cells = (line) =>
    line
      .replace(/^\||\|$/g, '')
      .split('|')
      .map((cell) => cell.trim());
  const found = [];
  let column;
  for (const line of read(file).split('\n')) {
    if (!line.startsWith('|')) {
      column = undefined;
      continue;
    }
    const row = cells(line);
    if (column === undefined) {
      column = /^option/.test(row[0]) ? row.indexOf('default') : -1;
      found.push({});
    } else if (column > 0 && row[0].startsWith('`')) {
      found.at(-1)[row[0].replaceAll('`', '')] = row[column];
    }
  }
  return found.filter((table) => Object.keys(table).length > 0);
}

/** The `Default` remarks of an interface in index.d.ts: text by name. */
function remarks(name) {
  const [, body] = new RegExp(`^ {2}interface ${name} \\{\\n([\\s\\S]*?)^ {2}\\}`, 'm').exec(
    read('index.d.ts'),
  );
  const found = {};
  for (const [, comment, member] of body.matchAll(/\/\*\*([\s\S]*?)\*\/\s*(\w+)\?:/g)) {
    const text = comment.replace(/\n\s*\*/g, ' ').replace(/\s+/g, ' ');
    found[member] = /Default:? (.+?)\.(?= |$)/.exec(text)?.[1] ?? 'not told';
  }
  return found;
}

/** The flags in `--help`: the text of the last parentheses by name. */
function flags() {
  const cli = path.join(root, 'bin', 'wsbrokerserver.js');
  const help = execFileSync(process.execPath, [cli, '--help'], { encoding: 'utf8' });
  const lines = [...help.matchAll(/^ {2}--([\w-]+) <\S+> +(.*)$/gm)];
  return Object.fromEntries(lines.map(([, flag, text]) => [flag, /\(([^()]*)\)$/.exec(text)?.[1]]));
}

/** The error codes in all of our sources. */
function codes() {
  const files = (folder) =>
    fs.readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
      const name = `${folder}/${entry.name}`;
      return entry.isDirectory() ? files(name) : [name];
    });
  const sources = ['lib', 'src'].flatMap(files).map(read).join('\n');
  const written = sources.match(/\bERR_[A-Z]+(?:_[A-Z]+)+\b/g);
  const called = [...sources.matchAll(/\bwrong\('([A-Z]+)'/g)].map(
    ([, name]) => `ERR_WSMB_${name}`,
  );
  // A text, as in version 1, and not an error.
  const others = ['ERR_WSMB_SERVER_KEY'];
  return [...new Set([...written, ...called])].filter((code) => !others.includes(code));
}

/** Outcomes that a server sends for a receiver, except for error codes. */
function outcomes() {
  const files = ['src/broker/requests/delivery_error.rs', 'src/broker/mailboxes.rs'];
  const bodies = files.map(
    (file) => /fn code\(self\)[^{]*\{([\s\S]*?)\n {4}\}/.exec(read(file))[1],
  );
  const codes = [...bodies.join().matchAll(/=> "(\w+)"/g)].map(([, code]) => code);
  return codes.filter((code) => !code.startsWith('ERR_'));
}

/** Outcomes for which the client has a message. */
function reasons() {
  const [, reasons] = /^const REASONS = \{([^}]*)\};$/m.exec(read('lib/client/errors.js'));
  return Object.keys(new Function(`return {${reasons}};`)());
}

/** The texts of a union type in index.d.ts. */
function union(name) {
  const [, body] = new RegExp(`^ {2}type ${name} =([^;]*);`, 'm').exec(read('index.d.ts'));
  return [...body.matchAll(/'(\w+)'/g)].map(([, text]) => text);
}

/** The members of `admin`. */
const adminOptions = () => SERVER.filter(([name]) => name.startsWith('admin.'));

/** The members of `nats`. Those of its `tls` are documented elsewhere. */
const natsOptions = () =>
  SERVER.filter((option) => option[0].startsWith('nats.') && !isNested(option));
const isNested = ([name]) => name.split('.').length > 2;
const kebab = (name) => name.replace(/[A-Z.]/g, (c) => `-${c === '.' ? '' : c.toLowerCase()}`);
const top = (options) => options.filter(([name]) => !name.includes('.'));
const members = (options, group) =>
  options
    .filter(([name]) => name.startsWith(`${group}.`))
    .map(([name, type]) => [name.slice(group.length + 1), type]);
/** Splits rows about two options, `a`, `b`, into one row for each. */
const apart = (table) =>
  Object.fromEntries(
    Object.entries(table).flatMap(([names, text]) => names.split(', ').map((name) => [name, text])),
  );
const prefixed = (group, found) =>
  Object.fromEntries(Object.entries(found).map(([name, text]) => [`${group}.${name}`, text]));

test('every numeric option has a default, and derived defaults follow their rule', (t) => {
  for (const [who, options] of [
    ['server', SERVER],
    ['client', CLIENT],
  ]) {
    for (const [name] of options.filter(([, type]) => type === 'number')) {
      t.true(name in CODE[who] || name.startsWith('rateLimit.'), name);
    }
  }
  for (const [name, [, follows]] of Object.entries(RULES)) {
    t.true(follows(CODE.server[name]), `${name}: ${CODE.server[name]}`);
  }
});

/** The tables of limits of a server. */
const limits = () => Object.assign({}, ...tables('docs/limits.md'));

test('docs/api.md and docs/limits.md list every option with its default in one table', (t) => {
  const all = tables('docs/api.md');
  const having = (name) => all.find((table) => name in table) ?? {};
  const [client, server, reconnect] = ['resend', 'host', 'minDelay'].map(having);
  compare(t, 'client', top(CLIENT), client, 'docs/api.md');
  compare(t, 'client', members(CLIENT, 'reconnect'), reconnect, 'docs/api.md', 'reconnect.');
  const nats = apart(having('namespace'));
  compare(t, 'server', natsOptions(), prefixed('nats', nats), 'docs/api.md');
  const admin = all.find((table) => Object.keys(table).join() === 'port,fd,host,token') ?? {};
  compare(t, 'server', adminOptions(), prefixed('admin', admin), 'docs/api.md');
  const isLimit = ([name, type]) =>
    !name.startsWith('jwt.') &&
    !name.startsWith('nats.') &&
    !name.startsWith('admin.') &&
    (type === 'number' || name === 'slowConsumer');
  compare(t, 'server', SERVER.filter(isLimit), limits(), 'docs/limits.md');
  const others = top(SERVER).filter((option) => !isLimit(option));
  compare(t, 'server', others, server, 'docs/api.md');

  const names = (options) => options.map(([name]) => name).sort();
  const groups = (options) => [...new Set(options.map(([name]) => name.split('.')[0]))];
  const nested = (options, ...groups) => groups.map((name) => [name]).concat(top(options));
  t.deepEqual(
    Object.keys(client).sort(),
    names([...nested(CLIENT, 'reconnect', 'tls'), ['WebSocket']]),
  );
  t.deepEqual(Object.keys(reconnect).sort(), names(members(CLIENT, 'reconnect')));
  t.deepEqual(
    Object.keys(server).sort(),
    names(nested(others, 'admin', 'jwt', 'nats', 'store', 'tls')),
  );
  t.deepEqual(Object.keys(limits()).sort(), names(SERVER.filter(isLimit)));
  t.deepEqual(
    Object.keys(nats).sort(),
    names([...members(SERVER, 'nats').filter(([name]) => !name.includes('.')), ['tls']]),
  );
  // docs/api.md names the limits as well.
  const [, section] = /^#### Options of a server\n([\s\S]*?)^####/m.exec(read('docs/api.md'));
  for (const name of groups(SERVER.filter(isLimit))) t.true(section.includes(`\`${name}\``), name);
  // The members of `tls`.
  const [tlsServer, tlsClient] = ['requestCert', 'servername'].map(having);
  t.deepEqual(Object.keys(tlsServer).sort(), names(members(SERVER, 'tls')));
  t.deepEqual(Object.keys(tlsClient).sort(), names(members(CLIENT, 'tls')));
});

test('a browser client has the documented defaults of all clients', (t) => {
  // Options that a page chooses itself or that only browsers have.
  const { tls, WebSocket, protocol, ...others } = BROWSER;
  t.is(protocol, 2);
  t.deepEqual(
    others,
    Object.fromEntries(Object.keys(others).map((name) => [name, CODE.client[name]])),
  );
});

test('docs/api.md lists every error code, and every counter of stats', (t) => {
  t.true(codes().length > 20);
  const text = read('docs/api.md');
  const table = text.slice(text.indexOf('## Error codes'), text.indexOf('## Command line'));
  for (const code of [...codes(), ...outcomes(), ...union('ErrorCode')]) {
    t.true(table.includes(`\`${code}\``), code);
  }
  const [, stats] = /^### server.stats\(\)\n([\s\S]*?)^###/m.exec(text);
  for (const counter of COUNTERS) {
    t.true(stats.includes(`| \`${counter}\` |`), counter);
  }
});

test('index.d.ts lists every error code', (t) => {
  const ours = codes().filter((code) => code.startsWith('ERR_WSMB_'));
  const types = union('ErrorCode');
  t.deepEqual(
    ours.filter((code) => !types.includes(code)),
    [],
  );
  t.deepEqual(union('FailureCode').sort(), outcomes().sort());
  t.deepEqual(
    reasons().filter((code) => !outcomes().includes(code)),
    [],
  );
});

test('docs/authentication.md lists every option of tokens with its default', (t) => {
  const [found] = tables('docs/authentication.md');
  const jwt = SERVER.filter(([name]) => name.startsWith('jwt.'));
  compare(t, 'server', jwt, prefixed('jwt', found), 'docs/authentication.md');
});

test('index.d.ts lists every option with its default', (t) => {
  compare(t, 'client', top(CLIENT), remarks('ClientOptions'), 'index.d.ts');
  compare(t, 'server', top(SERVER), remarks('ServerOptions'), 'index.d.ts');
  const reconnect = remarks('ReconnectOptions');
  compare(t, 'client', members(CLIENT, 'reconnect'), reconnect, 'index.d.ts', 'reconnect.');
  for (const [group, name] of [
    ['rateLimit', 'RateLimit'],
    ['jwt', 'JwtOptions'],
  ]) {
    t.true(group in remarks('ServerOptions'), group);
    const options = members(SERVER, group).map(([member, type]) => [`${group}.${member}`, type]);
    compare(t, 'server', options, prefixed(group, remarks(name)), 'index.d.ts');
  }
  t.true('nats' in remarks('ServerOptions') && 'tls' in remarks('NatsOptions'));
  const told = prefixed('nats', remarks('NatsOptions'));
  // The address of NATS has no default.
  const nats = natsOptions().filter(([name]) => name !== 'nats.servers');
  compare(t, 'server', nats, told, 'index.d.ts');
});

test('the command line lists every option with its default', (t) => {
  const found = flags();
  const none = [...NO_FLAGS, ...NO_NATS_FLAGS];
  const options = SERVER.filter((option) => !none.includes(option[0]) && !isNested(option));
  const names = { 'nats.servers': 'nats', 'admin.port': 'admin' };
  const flagOf = (name) => names[name] ?? kebab(name);
  t.true('nats-tls' in found);
  const named = Object.fromEntries(
    options
      .filter(([name]) => flagOf(name) in found)
      .map(([name]) => [name, found[flagOf(name)] ?? 'not told']),
  );
  compare(t, 'server', options, named, '--help');
});

test('spec/protocol.md has the defaults of the limits that its rules name', (t) => {
  const [found] = tables('spec/protocol.md');
  const text = read('spec/protocol.md');
  const named = SERVER.filter(
    ([name, type]) => type === 'number' && text.includes(`\`${name.split('.')[0]}\``),
  ).filter(([name]) => !name.includes('.'));
  t.true(named.length > 15);
  compare(t, 'server', named, found, 'spec/protocol.md');
});
