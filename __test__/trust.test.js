'use strict';

// The authorities that a client trusts: those of the option `ca`, and without it those of Node's own settings.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const tls = require('node:tls');
const { execFile } = require('node:child_process');
const { once } = require('node:events');
const { promisify } = require('node:util');
const test = require('ava');
const { authority } = require('../testkit/certificates');
const { startNats } = require('../testkit/nats');
const { WSMsgBroker, startServer, startClient } = require('./support/start');

const trusted = authority();
const other = authority('other');
const PROGRAM = path.join(__dirname, 'trust', 'program.js');
const CLI = path.join(__dirname, '..', 'bin', 'wsbrokerserver.js');
/** Variables that the tested programs must not inherit. */
const UNSET = {
  NODE_EXTRA_CA_CERTS: undefined,
  SSL_CERT_FILE: undefined,
  SSL_CERT_DIR: undefined,
  NODE_USE_SYSTEM_CA: undefined,
};

/** A folder with the certificates of an authority: as a file, and as OpenSSL names it in a directory. */
function folderOf(t, { ca }) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-trust-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  fs.writeFileSync(path.join(folder, '0a1b2c3d.0'), ca);
  const file = path.join(folder, 'ca.pem');
  fs.writeFileSync(file, ca);
  return { folder, file };
}

const urlOf = (server) => `wss://localhost:${server.address().port}`;

/** Runs a program; resolves with what it prints. */
async function run(file, args, env) {
  const options = { env: { ...process.env, ...UNSET, ...env } };
  return (await promisify(execFile)(file, args, options)).stdout.trim();
}

test('the trust store of the process is honored: NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, SSL_CERT_DIR', async (t) => {
  const server = await startServer(t, { tls: trusted.issue() });
  const { folder, file } = folderOf(t, trusted);
  const connect = (env, options) =>
    run(process.execPath, [PROGRAM, urlOf(server), JSON.stringify(options ?? {})], env);
  t.regex(await connect({}), /^ERR_WSMB_TLS .*not trusted.*NODE_EXTRA_CA_CERTS/);
  for (const env of [
    { NODE_EXTRA_CA_CERTS: file },
    { SSL_CERT_FILE: file },
    { SSL_CERT_DIR: folder },
    { SSL_CERT_DIR: ['/nowhere', folder].join(path.delimiter) },
    // A file that cannot be read is ignored, as by Node.js.
    { SSL_CERT_FILE: '/nowhere/at/all.pem', NODE_EXTRA_CA_CERTS: file },
  ]) {
    t.is(await connect(env), 'registered', JSON.stringify(env));
  }
  // The option replaces all others.
  const options = { tls: { ca: other.ca } };
  t.regex(await connect({ NODE_EXTRA_CA_CERTS: file }, options), /^ERR_WSMB_TLS /);
});

if (process.platform === 'linux') {
  test('the trust store of the system is used if a flag or variable of Node.js asks for it', async (t) => {
    const server = await startServer(t, { tls: trusted.issue() });
    const { file } = folderOf(t, trusted);
    // Mounts of its own: the trust store of the machine stays as it is.
    const script = `mount -t tmpfs tmpfs /etc/ssl && mkdir /etc/ssl/certs &&
      cp ${file} /etc/ssl/certs/ca-certificates.crt && exec "$@"`;
    const connect = (env, ...flags) => {
      const program = [process.execPath, ...flags, PROGRAM, urlOf(server)];
      const own = ['--user', '--map-root-user', '--mount', '--', 'sh', '-c', script, 'sh'];
      return run('unshare', [...own, ...program], env);
    };
    t.regex(await connect({}), /^ERR_WSMB_TLS /);
    t.is(await connect({ NODE_USE_SYSTEM_CA: '1' }), 'registered');
    const isKnown = process.allowedNodeEnvironmentFlags.has('--use-system-ca');
    // Older versions have only the flag for OpenSSL's store, which is that of the system.
    const flag = isKnown ? '--use-system-ca' : '--use-openssl-ca';
    t.is(await connect({}, flag), 'registered');
    t.is(await connect({ NODE_OPTIONS: flag }), 'registered');
  });
}

test('ca may be an array: texts, Buffers and files, of client and server', async (t) => {
  const server = await startServer(t, { tls: trusted.issue() });
  const { file } = folderOf(t, trusted);
  for (const ca of [
    [trusted.ca],
    [other.ca, trusted.ca],
    [Buffer.from(trusted.ca), other.ca],
    [file],
    [...tls.rootCertificates, trusted.ca],
  ]) {
    const client = new WSMsgBroker('a', urlOf(server), { tls: { ca } });
    await client.connected();
    await client.close();
  }
  const untrusting = new WSMsgBroker('a', urlOf(server), { tls: { ca: tls.rootCertificates } });
  await t.throwsAsync(untrusting.connected(), { code: 'ERR_WSMB_TLS' });
  const ca = [other.ca, trusted.ca];
  const strict = await startServer(t, { tls: { ...trusted.issue(), ca, requestCert: true } });
  for (const issuer of [other, trusted]) {
    await startClient(t, strict, `by ${issuer === other}`, {
      tls: { ca: [trusted.ca], ...issuer.issue() },
    });
  }
  for (const wrong of [[], [1], [trusted.ca, null], 1, {}]) {
    const error = t.throws(() => new WSMsgBroker('a', urlOf(server), { tls: { ca: wrong } }));
    t.is(error.code, 'ERR_WSMB_OPTION');
    t.true(error.message.includes('"tls.ca"'), error.message);
    t.throws(() => new WSMsgBroker.Server({ port: 0, tls: { ...trusted.issue(), ca: wrong } }), {
      code: 'ERR_WSMB_OPTION',
    });
  }
});

test('a broker trusts NATS by the same settings, and by a flag of the command line', async (t) => {
  const nats = await startNats(t, { tls: trusted.issue() });
  const { file } = folderOf(t, trusted);
  const start = (env, ...flags) => {
    const base = [CLI, '0', '--host', '127.0.0.1', '--nats', nats.url, '--nats-required', 'yes'];
    const child = execFile(process.execPath, [...base, ...flags], {
      env: { ...process.env, ...UNSET, ...env },
    });
    t.teardown(() => child.kill('SIGKILL'));
    return new Promise((resolve) => {
      child.stdout.once('data', (text) => resolve(/listening/.test(text)));
      child.once('exit', () => resolve(false));
    });
  };
  const [untrusting, ...others] = await Promise.all([
    start({}),
    start({ NODE_EXTRA_CA_CERTS: file }),
    start({ SSL_CERT_FILE: file }, '--nats-tls', 'yes'),
    start({}, '--nats-tls-ca', file),
  ]);
  t.false(untrusting);
  t.deepEqual(others, [true, true, true]);
});

test('the server of a client with a certificate for another host is not trusted, whatever the store', async (t) => {
  const server = await startServer(t, { tls: trusted.issue() });
  const client = new WSMsgBroker('a', urlOf(server), {
    tls: { ca: [trusted.ca], servername: 'example.org' },
  });
  const [error] = await once(client, 'error');
  t.is(error.code, 'ERR_WSMB_TLS');
});
